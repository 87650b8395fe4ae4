import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from pydantic import ValidationError

from hsfm.data.transforms import AugmentationSettings, TransformSettings
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.methods.ddb import Settings, fit
from hsfm.methods.ddb.fit import DDBInputs, kept_images
from hsfm.methods.ddb.generated import as_png
from hsfm.models.backbone import build_network
from hsfm.models.erm import LabeledImages, Training, TrainingData
from tests.conftest import planted
from tests.methods.ddb.test_prune import CPU
from tests.models.test_erm import bright_and_dark

TRANSFORM = TransformSettings(resize=None, crop=None, mean=(0.5,) * 3, std=(0.5,) * 3)
PLAIN = AugmentationSettings(random_resized_crop=None, random_crop=None, flip=True)
RETRAINING = {"weights": (6, 10), "lr": 1e-3, "batch_size": 16, "epochs": 3}
# of the same classes; their features are nothing to DDB
SPLITS = [planted(split, [3] * 4, seed=0) for split in ("train", "val")]
ERM = Head(torch.zeros(2, 12), torch.zeros(2))


def retrained(network, data, generated, *, seeds=(0,), rule="worst_group", **changed) -> Fit:
    inputs = DDBInputs(network, TrainingData(*data, TRANSFORM, PLAIN), generated, CPU)
    settings = Settings(generator="cut_paste", cut_paste={}, retrain={**RETRAINING, **changed})
    scorer = Scorer(SPLITS[1], rule)
    found = fit(*SPLITS, ERM, settings=settings, seeds=seeds, scorer=scorer, inputs=inputs)
    assert scorer.asked == any(generated)
    return found


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

    def train(network, data, settings, **how):
        state = {key: value.clone() for key, value in network.state_dict().items()}
        seen.append((state, data.auxiliary, settings))
        row = {"epoch": [1], "val_average": [0.5], "val_worst_group": [0.5], "val_worst_class": [0.5], "kept": [True]}
        return Training(pd.DataFrame(row), None)

    monkeypatch.setattr(sys.modules["hsfm.methods.ddb.fit"], "train", train)
    retrained(network, data, [None, of_class(tmp_path, 1)], seeds=(0, 0, 1))
    (first, auxiliary, settings), (again, _, _), (other, _, _) = seen
    for key, value in first.items():
        assert torch.equal(value, before[key]) == (not key.startswith("fc."))
    assert torch.equal(first["fc.weight"], again["fc.weight"])
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
    assert (settings.checkpoint, settings.lr, settings.epochs) == ("worst_group", 1e-3, 3)
    assert [(part.name, part.weight) for part in auxiliary] == [("generated_1", 10.0)]


def test_retraining_learns_and_says_which_epoch_was_kept(data, tmp_path):
    validation = data[1]
    generated = [of_class(tmp_path, 0), of_class(tmp_path, 1)]
    found = retrained(build_network("small_resnet", 2), data, generated, epochs=6)
    history, (network,) = found.tables["history"], found.networks
    assert {"loss_generated_0", "loss_generated_1", "val_worst_class"} <= set(history.columns)
    assert history["kept"].sum() == 1
    assert history.loc[history["kept"], "val_worst_group"].item() == history["val_worst_group"].max()
    network.eval()
    with torch.no_grad():
        correct = network(validation.pixels.stacked().float() / 127.5 - 1).argmax(1) == validation.y
    kept = history[history["kept"]].iloc[0]
    assert float(correct.double().mean()) == pytest.approx(kept["val_average"]), "its weights are the network's"
    assert torch.equal(found.head.weight, network.fc.weight[None])
    assert (found.chosen_by, found.remarks) == ("the epoch with the best validation worst group", ("",))


def test_epochs_are_judged_on_images_that_teach_nothing(data, tmp_path):
    """Other classes on validation change its measures, and no step of the training."""
    training, validation = data
    flipped = training, replace(validation, y=1 - validation.y)
    network, generated = build_network("small_resnet", 2), [of_class(tmp_path, 0), None]
    found, other = (retrained(network, part, generated).tables["history"] for part in (data, flipped))
    assert found["train_loss"].tolist() == other["train_loss"].tolist()
    assert found["val_average"].tolist() == pytest.approx((1 - other["val_average"]).tolist())


def test_several_seeds_are_those_of_one_seed_each(data, tmp_path):
    network, generated = build_network("small_resnet", 2), [of_class(tmp_path, 0), None]
    together = retrained(network, data, generated, seeds=(0, 1), epochs=2)
    alone, history = retrained(network, data, generated, seeds=(1,), epochs=2), together.tables["history"]
    assert torch.equal(together.head.weight[1], alone.head.weight[0])
    assert history[history["seed"] == 1].reset_index(drop=True).equals(alone.tables["history"])
    assert together.remarks == ("no generated image of class 1 was kept",) * 2


def test_without_a_generated_image_the_network_stays(data):
    network = build_network("small_resnet", 2)
    found = retrained(network, data, [None, None])
    assert found.tables["history"].empty
    assert {"epoch", "val_worst_group", "seed", "kept"} <= set(found.tables["history"].columns)
    assert found.networks == (network,)
    assert torch.equal(found.head.weight, network.fc.weight[None])
    assert found.chosen_by == "ERM's own"
    assert found.remarks == ("no generated image was kept, so that this is ERM's own network and head",)


def test_a_generator_needs_its_own_parts():
    with pytest.raises(ValidationError, match="missing 'cut_paste', which the generator cut_paste needs"):
        Settings(generator="cut_paste", retrain=RETRAINING)
    with pytest.raises(ValidationError, match="missing 'models', 'token', 'segment', 'inpaint', which the gener"):
        Settings(generator="diffusion", cut_paste={}, retrain=RETRAINING)
    both = {"segment": {"prompt": "bird."}, "cut_paste": {"margin": 2}}
    assert Settings(generator="cut_paste", retrain=RETRAINING, **both).cut_paste.margin == 2


def test_the_images_that_were_kept_of_each_class():
    pixels = np.arange(4 * 27, dtype=np.uint8).reshape(4, 3, 3, 3)
    generated = pd.DataFrame({"image_id": list("abcd"), "y": [1, 0, 1, 1], "image": [as_png(one) for one in pixels]})
    pruned = generated[["image_id"]].assign(kept=[True, False, False, True])
    first, second = kept_images(generated, pruned, 2)
    assert first is None
    np.testing.assert_array_equal(second.pixels.stacked().permute(0, 2, 3, 1), pixels[[0, 3]])
    assert second.y.tolist() == [1, 1]
    assert second.group.tolist() == [-1, -1]
