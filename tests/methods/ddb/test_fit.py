from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn.functional import cross_entropy

from hsfm.data.pixels import pack
from hsfm.heads.head import Head
from hsfm.methods.ddb import fit as ddb
from hsfm.models.backbone import build_network
from hsfm.models.erm import LabelledImages
from tests.conftest import planted
from tests.methods.ddb.test_attribution import CPU, linear
from tests.models.test_erm import bright_and_dark

TRANSFORM = {"resize": None, "crop": None, "mean": [0.5] * 3, "std": [0.5] * 3}
PLAIN = {"random_resized_crop": None, "random_crop": None, "flip": True}
RETRAINING = {"weights": [6, 10], "lr": 1e-3, "batch_size": 16, "epochs": 3, "select_by": "worst_group",
              "transform": TRANSFORM, "augmentation": PLAIN, "seed": 0, "compute": CPU}  # fmt: skip


# Sources --------------------------------------------------------------------------------------------------------------


def test_sources_are_the_images_of_lowest_loss_of_each_class(splits, erm_head):
    train = splits["train"]
    sources = ddb.choose_sources(erm_head, train, 7)
    loss = cross_entropy(erm_head.logits(train.features), train.y, reduction="none")
    for y in (0, 1):
        expected = sorted((float(loss[i]), train.image_id[i]) for i in range(len(train.y)) if train.y[i] == y)[:7]
        part = sources[sources["y"] == y]
        assert part["image_id"].tolist() == [name for _, name in expected]
        assert part["rank"].tolist() == list(range(1, 8))
        np.testing.assert_allclose(part["loss"], [value for value, _ in expected])


def test_a_class_with_few_images_gives_all_and_says_so(erm_head, caplog):
    train = planted("train", [3, 1, 5, 5], seed=3)
    sources = ddb.choose_sources(erm_head, train, 6)
    assert sources.groupby("y").size().tolist() == [4, 6]
    assert "class 0 has 4 training images, fewer than 6 sources" in caplog.text


def test_the_test_split_is_refused(splits, erm_head):
    for function in (lambda: ddb.choose_sources(erm_head, splits["test"], 2),
                     lambda: ddb.class_confidence(erm_head, splits["test"])):  # fmt: skip
        with pytest.raises(ValueError, match="DDB was given the test split"):
            function()


def test_confidence_is_the_mean_probability_of_a_class_over_its_own_images(splits, erm_head):
    train = splits["train"]
    probability = torch.softmax(erm_head.logits(train.features).double(), 1).numpy()
    expected = [probability[train.y.numpy() == y, y].mean() for y in (0, 1)]
    np.testing.assert_allclose(ddb.class_confidence(erm_head, train), expected, rtol=1e-5)


# Pruning --------------------------------------------------------------------------------------------------------------


def test_both_rules_have_to_hold_and_neither_by_equality():
    attribution = torch.tensor([0.31, 0.30, 0.31, 0.31, 0.1])
    probability = torch.tensor([0.5, 0.5, 0.9, 0.8, 0.9])
    judged = ddb.by_rules(attribution, probability, torch.full((5,), 0.8), 0.3)
    assert judged.on_object.tolist() == [True, False, True, True, False]
    assert judged.hard.tolist() == [True, True, False, False, False]
    assert judged.kept.tolist() == [True, False, False, False, False]
    assert ddb.why_not(judged, 0.3) == [
        None,
        "attribution on the object not above 0.3",
        "ERM as sure as of the class's own images",
        "ERM as sure as of the class's own images",
        "attribution on the object not above 0.3 and ERM as sure as of the class's own images",
    ]


def pairs(n: int, side: tuple[int, int], changed: tuple[slice, slice], masks: list[np.ndarray]) -> ddb.Pairs:
    """Images that differ from their sources in one place."""
    generator = np.random.default_rng(0)
    sources = [generator.integers(0, 256, (*side, 3), dtype=np.uint8) for _ in range(n)]
    images = [source.copy() for source in sources]
    for image in images:
        image[changed] = generator.integers(0, 256, image[changed].shape, dtype=np.uint8)
    return ddb.Pairs(pack(images), pack(sources), masks, torch.tensor([0, 1] * (n // 2)))


def judged(network, batch, transform, confidence=(0.5, 0.5)) -> ddb.Judged:
    found = ddb.judge(network, [batch], torch.tensor(confidence), transform, min_attribution=0.3, steps=5, compute=CPU)
    (one,) = found
    return one


def test_shares_and_probabilities_of_a_linear_network():
    network = linear(8)
    masks = [np.zeros((8, 8), bool) for _ in range(4)]
    for mask in masks:
        mask[:4, :3] = True
    batch = pairs(4, (8, 8), (slice(None), slice(None)), masks)
    shown, baseline = (images.stacked().float() / 127.5 - 1 for images in (batch.generated, batch.sources))
    size = ((shown - baseline) * network.fc.weight[batch.y].view(4, 3, 8, 8)).abs().sum(1).detach()
    found = judged(network, batch, TRANSFORM, (0.7, 0.4))
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
    transform = {**TRANSFORM, "resize": [30, 40], "crop": [20, 20]}
    batch = pairs(2, (60, 80), place, [mask, ~mask])
    found = judged(linear(20), batch, transform)
    assert found.attribution.tolist() == pytest.approx([1.0, 0.0], abs=1e-6)


def test_an_object_that_the_crop_cuts_off_is_not_seen():
    mask = np.zeros((60, 80), bool)
    mask[:, :4] = True
    transform = {**TRANSFORM, "resize": [30, 40], "crop": [20, 20]}
    batch = pairs(2, (60, 80), (slice(None), slice(0, 4)), [mask, mask])
    found = judged(linear(20), batch, transform)
    assert found.attribution.tolist() == [0.0, 0.0]
    assert not found.on_object.any()


# Retraining -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    return bright_and_dark(tmp_path, 48, 0), bright_and_dark(tmp_path, 24, 1)


def of_class(folder, y: int, n: int = 10) -> LabelledImages:
    images = bright_and_dark(folder, 2 * n, 5 + y)
    rows = (images.y == y).nonzero()[:, 0]
    return LabelledImages(images.pixels.take(rows), images.y[rows], torch.full((n,), -1))


def test_retraining_starts_from_erms_body_and_a_fresh_head(data, tmp_path, monkeypatch):
    network, seen = build_network("small_resnet", 2, seed=7), []
    before = {key: value.clone() for key, value in network.state_dict().items()}

    def train(network, *images, **settings):
        seen.append(({key: value.clone() for key, value in network.state_dict().items()}, settings))
        return pd.DataFrame({"epoch": [1], "val_average": [0.5], "val_worst_group": [0.5]})

    monkeypatch.setattr(ddb, "train", train)
    for seed in (0, 0, 1):
        ddb.retrain(network, *data[:1], [None, of_class(tmp_path, 1)], data[1], **{**RETRAINING, "seed": seed})
    (first, settings), (again, _), (other, _) = seen
    for key, value in first.items():
        assert torch.equal(value, before[key]) == (not key.startswith("fc."))
    assert torch.equal(first["fc.weight"], again["fc.weight"])
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert (settings["optimiser"], settings["checkpoint"], settings["schedule"]) == (
        "adam",
        "best_worst_group",
        "constant",
    )
    assert [(part.name, part.weight) for part in settings["beside"]] == [("generated_1", 10.0)]


def test_retraining_learns_and_says_which_epoch_was_kept(data, tmp_path):
    training, validation = data
    generated = [of_class(tmp_path, 0), of_class(tmp_path, 1)]
    network = build_network("small_resnet", 2)
    result = ddb.retrain(network, training, generated, validation, **{**RETRAINING, "epochs": 6})
    history = result.history
    assert {"loss_generated_0", "loss_generated_1", "val_worst_class"} <= set(history.columns)
    assert history["kept"].sum() == 1
    assert history.loc[history["kept"], "epoch"].item() == result.kept_epoch
    assert history.loc[history["kept"], "val_worst_group"].item() == history["val_worst_group"].max()
    network.eval()
    with torch.no_grad():
        correct = network(validation.pixels.stacked().float() / 127.5 - 1).argmax(1) == validation.y
    kept = history[history["kept"]].iloc[0]
    assert float(correct.double().mean()) == pytest.approx(kept["val_average"]), "its weights are the network's"


def test_what_cannot_be_retrained_is_said(data, tmp_path):
    network, (training, validation) = build_network("small_resnet", 2), data
    one = of_class(tmp_path, 0)
    for change, generated, message in (
        ({"select_by": "average"}, [one, one], "select_by: 'average' is unknown; allowed are worst_group, worst_class"),
        ({"weights": [1, 2, 3]}, [one, one], r"weights: \[1, 2, 3\] are 3 numbers, but there are 2 classes"),
        ({}, [None, None], "no generated image was kept"),
    ):
        with pytest.raises(ValueError, match=message):
            ddb.retrain(network, training, generated, validation, **{**RETRAINING, **change})
    unknown = replace(validation, group=torch.full_like(validation.group, -1))
    with pytest.raises(ValueError, match="best_worst_group needs the group of every validation image"):
        ddb.retrain(network, training, [one, None], unknown, **RETRAINING)
    by_class = {**RETRAINING, "select_by": "worst_class", "epochs": 1}
    assert ddb.retrain(network, training, [one, None], unknown, **by_class).kept_epoch == 1


def test_heads_fit_any_number_of_classes():
    train = planted("train", [20] * 6, seed=0, classes=3)
    head = Head(torch.randn(3, 12, generator=torch.Generator().manual_seed(0)), torch.zeros(3))
    assert ddb.choose_sources(head, train, 4).groupby("y").size().tolist() == [4, 4, 4]
    assert ddb.class_confidence(head, train).shape == (3,)
