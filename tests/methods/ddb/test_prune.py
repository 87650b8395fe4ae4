import numpy as np
import pytest
import torch

from hsfm.data.pixels import pack
from hsfm.data.transforms import TransformSettings
from hsfm.heads.head import Head
from hsfm.methods.ddb import prune as pruning
from hsfm.methods.ddb.generated import PRUNED, as_png, mask_as_png
from tests.conftest import planted
from tests.methods.ddb.test_attribution import CPU, linear

TRANSFORM = TransformSettings(resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_confidence_is_the_mean_probability_of_a_class_over_its_own_images(splits, erm_head):
    train = splits["train"]
    probability = torch.softmax(erm_head.logits(train.features).double(), 1).numpy()
    expected = [probability[train.y.numpy() == y, y].mean() for y in (0, 1)]
    np.testing.assert_allclose(pruning.class_confidence(erm_head, train), expected, rtol=1e-5)


def test_confidence_of_three_classes_and_not_of_the_test_split(splits, erm_head):
    train = planted("train", [20] * 6, seed=0, classes=3)
    head = Head(torch.randn(3, 12, generator=torch.Generator().manual_seed(0)), torch.zeros(3))
    assert pruning.class_confidence(head, train).shape == (3,)
    with pytest.raises(ValueError, match="DDB was given the test split"):
        pruning.class_confidence(erm_head, splits["test"])


def test_both_rules_have_to_hold_and_neither_by_equality():
    attribution = torch.tensor([0.31, 0.30, 0.31, 0.31, 0.1])
    probability = torch.tensor([0.5, 0.5, 0.9, 0.8, 0.9])
    pair_scores = pruning.by_rules(attribution, probability, torch.full((5,), 0.8), 0.3)
    assert pair_scores.on_object.tolist() == [True, False, True, True, False]
    assert pair_scores.hard.tolist() == [True, True, False, False, False]
    assert pair_scores.kept.tolist() == [True, False, False, False, False]
    assert pruning.why_not(pair_scores, 0.3) == [
        None,
        "attribution on the object not above 0.3",
        "ERM as sure as of the class's own images",
        "ERM as sure as of the class's own images",
        "attribution on the object not above 0.3 and ERM as sure as of the class's own images",
    ]


def pairs(n: int, side: tuple[int, int], changed: tuple[slice, slice], masks: list[np.ndarray]) -> pruning.Pairs:
    """Images that differ from their sources in one place."""
    generator = np.random.default_rng(0)
    sources = [generator.integers(0, 256, (*side, 3), dtype=np.uint8) for _ in range(n)]
    images = [source.copy() for source in sources]
    for image in images:
        image[changed] = generator.integers(0, 256, image[changed].shape, dtype=np.uint8)
    return pruning.Pairs(pack(images), pack(sources), masks, torch.tensor([0, 1] * (n // 2)))


def pair_scores(network, batch, transform, confidence=(0.5, 0.5)) -> pruning.PairScores:
    settings = pruning.PruneSettings(attribution=0.3, steps=5)
    return pruning.evaluate_pairs(network, batch, torch.tensor(confidence), transform, settings=settings, compute=CPU)


def test_shares_and_probabilities_of_a_linear_network():
    network = linear(8)
    masks = [np.zeros((8, 8), bool) for _ in range(4)]
    for mask in masks:
        mask[:4, :3] = True
    batch = pairs(4, (8, 8), (slice(None), slice(None)), masks)
    shown, baseline = (images.stacked().float() / 127.5 - 1 for images in (batch.generated, batch.sources))
    size = ((shown - baseline) * network.fc.weight[batch.y].view(4, 3, 8, 8)).abs().sum(1).detach()
    found = pair_scores(network, batch, TRANSFORM, (0.7, 0.4))
    np.testing.assert_allclose(found.attribution, size[:, :4, :3].sum((1, 2)) / size.sum((1, 2)), rtol=1e-4)
    with torch.no_grad():
        probability = network(shown).softmax(1)[torch.arange(4), batch.y]
    torch.testing.assert_close(found.probability, probability)
    assert found.limit.tolist() == pytest.approx([0.7, 0.4, 0.7, 0.4])


def test_source_image_and_mask_keep_to_one_place_through_resize_and_crop():
    """The very place that changed is inside the mask, whatever the transform makes of it."""
    place = (slice(20, 36), slice(24, 48))
    mask = np.zeros((60, 80), bool)
    mask[18:38, 22:50] = True
    transform = TRANSFORM.model_copy(update={"resize": (30, 40), "crop": (20, 20)})
    batch = pairs(2, (60, 80), place, [mask, ~mask])
    found = pair_scores(linear(20), batch, transform)
    assert found.attribution.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_an_object_that_the_crop_cuts_off_is_not_seen():
    mask = np.zeros((60, 80), bool)
    mask[:, :4] = True
    transform = TRANSFORM.model_copy(update={"resize": (30, 40), "crop": (20, 20)})
    batch = pairs(2, (60, 80), (slice(None), slice(0, 4)), [mask, mask])
    found = pair_scores(linear(20), batch, transform)
    assert found.attribution.tolist() == [0.0, 0.0]
    assert not found.on_object.any()


def test_every_row_is_accounted_for_however_the_batches_are_cut():
    """The scores of each image are those it has alone, and a row without an image keeps its reason."""
    network, generator = linear(8), np.random.default_rng(1)
    source, other = (generator.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(2))
    rows = []
    for number in range(5):
        image, where = source.copy(), np.zeros((8, 8), bool)
        image[number:, :4], where[number + 1 :, :4] = other[number:, :4], True
        row = {"image_id": f"{number}", "source_id": "s", "y": number % 2, "mask_area": 0.5, "why_not": None}
        rows.append({**row, "image": as_png(image), "mask": mask_as_png(where)})
    rows[2] |= {"image": None, "mask": None, "why_not": "nothing there"}

    def pruned(size: int) -> list[dict]:
        batches = (rows[first : first + size] for first in range(0, 5, size))
        how = {"settings": pruning.PruneSettings(attribution=0.8, steps=3), "compute": CPU}
        confidence = torch.tensor([0.6, 0.6])
        return list(pruning.prune(network, batches, lambda ids: [source for _ in ids], confidence, TRANSFORM, **how))

    found, alone = pruned(5), pruned(1)
    assert [row["image_id"] for row in found] == ["0", "1", "2", "3", "4"]
    assert all(set(row) == set(PRUNED.names) for row in found)
    assert (found[2]["why_not"], found[2]["kept"], found[2]["attribution"]) == ("nothing there", False, None)
    for one, same in zip(found[:2] + found[3:], alone[:2] + alone[3:], strict=True):
        assert (one["attribution"], one["probability"]) == pytest.approx((same["attribution"], same["probability"]))
        assert one["kept"] == (one["attribution"] > 0.8 and one["probability"] < one["limit"])
        assert one["kept"] == (one["why_not"] is None)
    assert 0 < sum(row["kept"] for row in found) < 4
