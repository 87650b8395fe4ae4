import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from hsfm.core.device import Compute
from hsfm.data.pixels import Images, pack
from hsfm.data.transforms import TransformSettings
from hsfm.methods.ddb import prune as pruning
from hsfm.methods.ddb.generated import PRUNED, as_png
from hsfm.models.backbone import Network

CPU = Compute(torch.device("cpu"))
TRANSFORM = TransformSettings(resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)


def test_confidence_is_the_mean_probability_of_a_class_over_its_own_images(splits, erm_head):
    train = splits["train"]
    probability = torch.softmax(erm_head.logits(train.features).double(), 1).numpy()
    expected = [probability[train.y.numpy() == y, y].mean() for y in (0, 1)]
    np.testing.assert_allclose(pruning.class_confidence(erm_head, train), expected, rtol=1e-5)
    few = [[n for n, c in enumerate(train.y.tolist()) if c == y][:3] for y in (0, 1)]
    ids = {train.image_id[n] for rows in few for n in rows}
    expected = [probability[rows, y].mean() for y, rows in enumerate(few)]
    np.testing.assert_allclose(pruning.class_confidence(erm_head, train, ids), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="DDB was given the test split"):
        pruning.class_confidence(erm_head, splits["test"])


class Pixels(nn.Module):
    """Logits that are linear in the pixels."""

    def __init__(self, side: int):
        super().__init__()
        self.fc = nn.Linear(3 * side * side, 2)

    def forward(self, images):
        return self.fc(images.flatten(1))


def linear(side: int) -> Network:
    torch.manual_seed(0)
    return Network(Pixels(side), "fc", 2).eval()


def pairs(side: tuple[int, int], changed: tuple[slice, slice], n: int = 2) -> tuple[Images, Images]:
    """Images, and their sources, which differ from them in one place."""
    generator = np.random.default_rng(0)
    sources = [generator.integers(0, 256, (*side, 3), dtype=np.uint8) for _ in range(n)]
    images = [source.copy() for source in sources]
    for image in images:
        image[changed] = generator.integers(0, 256, image[changed].shape, dtype=np.uint8)
    return pack(images), pack(sources)


def scores(network, images, masks, transform, rule="share") -> tuple[torch.Tensor, torch.Tensor]:
    y = torch.tensor([0, 1] * (len(masks) // 2))
    return pruning.score(network, *images, masks, y, transform, rule=rule, steps=5, compute=CPU)


def test_shares_and_probabilities_of_a_linear_network(monkeypatch):
    monkeypatch.setattr("hsfm.core.device.PIXELS_AT_ONCE", 3 * 8 * 8)  # of four images
    network, mask = linear(8), np.zeros((8, 8), bool)
    mask[:4, :3] = True
    images, y = pairs((8, 8), (slice(None), slice(None)), n=4), torch.tensor([0, 1, 0, 1])
    shown, baseline = (part.stacked().float() / 127.5 - 1 for part in images)
    signed = ((shown - baseline) * network.fc.weight[y].view(4, 3, 8, 8)).detach()
    size = signed.abs().sum(1)
    share, found = scores(network, images, [mask] * 4, TRANSFORM)
    np.testing.assert_allclose(share, size[:, :4, :3].sum((1, 2)) / size.sum((1, 2)), rtol=1e-4)
    with torch.no_grad():
        torch.testing.assert_close(found, network(shown).softmax(1)[torch.arange(4), y])
    on_object, same = scores(network, images, [mask] * 4, TRANSFORM, "sum")
    np.testing.assert_allclose(on_object, signed[:, :, :4, :3].sum((1, 2, 3)), rtol=1e-3, atol=1e-5)
    assert torch.equal(found, same)


def test_no_share_is_more_than_one():
    with pytest.raises(ValidationError, match=r"attribution 1.5 is more than 1, which no share is"):
        pruning.PruneSettings(attribution=1.5)
    assert pruning.PruneSettings(rule="sum", attribution=1.5).attribution == 1.5


def test_source_image_and_mask_keep_to_one_place_through_resize_and_crop():
    """The very place that changed is inside the mask, whatever the transform makes of it; or is cut off."""
    mask = np.zeros((60, 80), bool)
    mask[18:38, 22:50] = True
    transform = TRANSFORM.model_copy(update={"resize": (30, 40), "crop": (20, 20)})
    share, _ = scores(linear(20), pairs((60, 80), (slice(20, 36), slice(24, 48))), [mask, ~mask], transform)
    assert share.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)
    edge = np.zeros((60, 80), bool)
    edge[:, :4] = True
    share, _ = scores(linear(20), pairs((60, 80), (slice(None), slice(0, 4))), [edge, edge], transform)
    assert share.tolist() == [0.0, 0.0]


def test_every_row_is_accounted_for_however_the_batches_are_cut():
    """The scores of each image are those it has alone, and a row without an image keeps its reason."""
    network, generator = linear(8), np.random.default_rng(1)
    source, other = (generator.integers(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(2))
    rows = []
    for number in range(5):
        image, where = source.copy(), np.zeros((8, 8), bool)
        image[number:, :4], where[number + 1 :, :4] = other[number:, :4], True
        row = {"image_id": f"{number}", "source_id": "s", "y": number % 2, "mask_area": 0.5, "why_not": None}
        rows.append({**row, "image": as_png(image), "mask": as_png(where)})
    rows[2] |= {"image": None, "mask": None, "why_not": "nothing there"}

    def pruned(size: int) -> list[dict]:
        settings = pruning.PruneSettings(attribution=0.8, steps=3, batch_size=size)
        confidence = torch.tensor([0.6, 0.6])
        found = pruning.prune(
            network, rows, lambda ids: [source for _ in ids], confidence, TRANSFORM, settings=settings, compute=CPU
        )
        return list(found)

    found, alone = pruned(5), pruned(1)
    assert [row["image_id"] for row in found] == ["0", "1", "2", "3", "4"]
    assert all(set(row) == set(PRUNED.names) for row in found)
    assert (found[2]["why_not"], found[2]["kept"], found[2]["attribution"]) == ("nothing there", False, None)
    for one, same in zip(found[:2] + found[3:], alone[:2] + alone[3:], strict=True):
        assert (one["attribution"], one["probability"]) == pytest.approx((same["attribution"], same["probability"]))
        rules = {"attribution on the object not above 0.8": one["attribution"] <= 0.8,
                 "ERM as sure as of the class's own images": one["probability"] >= one["limit"]}  # fmt: skip
        assert one["why_not"] == (" and ".join(reason for reason, broken in rules.items() if broken) or None)
        assert one["kept"] == (one["why_not"] is None)
    assert 0 < sum(row["kept"] for row in found) < 4
