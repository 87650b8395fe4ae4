from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hsfm.methods.ddb import fit as ddb
from hsfm.methods.ddb.generated import as_png
from hsfm.models.backbone import build_network
from hsfm.models.erm import LabeledImages
from tests.methods.ddb.test_attribution import CPU
from tests.models.test_erm import bright_and_dark

TRANSFORM = {"resize": None, "crop": None, "mean": [0.5] * 3, "std": [0.5] * 3}
PLAIN = {"random_resized_crop": None, "random_crop": None, "flip": True}
RETRAINING = {"weights": [6, 10], "lr": 1e-3, "batch_size": 16, "epochs": 3, "select_by": "worst_group",
              "transform": TRANSFORM, "augmentation": PLAIN, "seed": 0, "compute": CPU}  # fmt: skip


@pytest.fixture
def data(tmp_path):
    return bright_and_dark(tmp_path, 48, 0), bright_and_dark(tmp_path, 24, 1)


def of_class(folder, y: int, n: int = 10) -> LabeledImages:
    images = bright_and_dark(folder, 2 * n, 5 + y)
    rows = (images.y == y).nonzero()[:, 0]
    return LabeledImages(images.pixels.take(rows), images.y[rows], torch.full((n,), -1))


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
    assert (settings["optimizer"], settings["checkpoint"], settings["schedule"]) == (
        "adam",
        "best_worst_group",
        "constant",
    )
    assert [(part.name, part.weight) for part in settings["auxiliary"]] == [("generated_1", 10.0)]


def test_retraining_learns_and_says_which_epoch_was_kept(data, tmp_path):
    training, validation = data
    generated = [of_class(tmp_path, 0), of_class(tmp_path, 1)]
    network = build_network("small_resnet", 2)
    history = ddb.retrain(network, training, generated, validation, **{**RETRAINING, "epochs": 6})
    assert {"loss_generated_0", "loss_generated_1", "val_worst_class"} <= set(history.columns)
    assert history["kept"].sum() == 1
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
    ):
        with pytest.raises(ValueError, match=message):
            ddb.retrain(network, training, generated, validation, **{**RETRAINING, **change})
    unknown = replace(validation, group=torch.full_like(validation.group, -1))
    with pytest.raises(ValueError, match="best_worst_group needs the group of every validation image"):
        ddb.retrain(network, training, [one, None], unknown, **RETRAINING)
    by_class = {**RETRAINING, "select_by": "worst_class", "epochs": 1}
    assert ddb.retrain(network, training, [one, None], unknown, **by_class)["kept"].tolist() == [True]


def test_without_a_generated_image_the_network_stays(data):
    network = build_network("small_resnet", 2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    history = ddb.retrain(network, data[0], [None, None], data[1], **RETRAINING)
    assert history.empty
    assert {"epoch", "val_worst_group", "seed", "kept"} <= set(history.columns)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert ddb.missing_images([None, None], ["a", "b"]) == [
        "no generated image was kept, so that this is ERM's own network and head"
    ]


def test_the_images_that_were_kept_of_each_class():
    pixels = np.arange(4 * 27, dtype=np.uint8).reshape(4, 3, 3, 3)
    generated = pd.DataFrame({"image_id": list("abcd"), "y": [1, 0, 1, 1], "image": [as_png(one) for one in pixels]})
    pruned = generated[["image_id"]].assign(kept=[True, False, False, True])
    first, second = ddb.kept_images(generated, pruned, ["x", "y"])
    assert first is None
    np.testing.assert_array_equal(second.pixels.stacked().permute(0, 2, 3, 1), pixels[[0, 3]])
    assert second.y.tolist() == [1, 1]
    assert second.group.tolist() == [-1, -1]
    assert ddb.missing_images([first, second], ["x", "y"]) == ["no generated image of x was kept"]
    with pytest.raises(ValueError, match="other images were generated than pruned"):
        ddb.kept_images(generated, pruned.iloc[::-1], ["x", "y"])
