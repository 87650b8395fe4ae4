from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch.nn.functional import cross_entropy

from hsfm.core.device import Compute
from hsfm.core.files import write_array
from hsfm.data.pixels import ImageFiles, Images, read_packed
from hsfm.data.store import decode_images, open_cache
from hsfm.data.transforms import AugmentationSettings, TransformSettings
from hsfm.models import erm
from hsfm.models.backbone import build_network
from hsfm.models.erm import AdamSettings, AuxiliaryData, LabeledImages, Training, TrainingData, TrainingSettings, train

CPU = Compute(torch.device("cpu"))
PLAIN = TransformSettings(resize=None, crop=None, mean=[0.5] * 3, std=[0.5] * 3)
AUGMENTED = AugmentationSettings(random_resized_crop=None, random_crop={"padding": 1}, flip=True)
AS_THEY_ARE = AugmentationSettings(random_resized_crop=None, random_crop=None, flip=False)
SETTINGS = {
    "epochs": 3,
    "batch_size": 16,
    "lr": 0.02,
    "momentum": 0.9,
    "nesterov": True,
    "weight_decay": 5e-4,
    "schedule": "one_cycle",
    "warmup": 0.2,
    "checkpoint": "last",
}
ADAM = AdamSettings(epochs=3, batch_size=16, lr=1e-3, checkpoint="worst_class")


def under(**changes) -> TrainingSettings:
    """SETTINGS with some of them changed."""
    return TrainingSettings(**{**SETTINGS, **changes})


def trained(network, training, validation, settings=None, **given) -> Training:
    """The outcome of training on these images. given: fields of TrainingData, and arguments of `train`."""
    fields = {"transform": PLAIN, "augmentation": AUGMENTED, "auxiliary": ()}
    images = {name: given.pop(name, default) for name, default in fields.items()}
    data = TrainingData(training, validation, **images)
    return train(network, data, settings or under(), **{"seed": 0, "compute": CPU, **given})


def learn(*given, **named) -> pd.DataFrame:
    return trained(*given, **named).history


def bright_and_dark(folder, n=48, seed=0) -> LabeledImages:
    """Class 1 is brighter than class 0; group = class."""
    y = np.arange(n) % 2
    rng = np.random.default_rng(seed)
    array = rng.integers(0, 120, (n, 16, 16, 3)) + 60 * y[:, None, None, None]
    write_array(folder / f"pixels{seed}.npy", array.astype(np.uint8))
    rows = pd.DataFrame({"path": f"pixels{seed}.npy", "index": np.arange(n)})
    return LabeledImages(read_packed(rows, folder), torch.tensor(y), torch.tensor(y))


def interrupted(training: Callable[[], object], *, validations: int) -> None:
    """Run a training that is interrupted after so many validations."""
    validate = erm._validate
    steps = [validate] * validations + [KeyboardInterrupt]

    def next_one(*given):
        step = steps.pop(0)
        if step is KeyboardInterrupt:
            raise step
        return step(*given)

    with mock.patch.object(erm, "_validate", next_one), pytest.raises(KeyboardInterrupt):
        training()


@pytest.fixture
def data(tmp_path):
    return bright_and_dark(tmp_path, 48, 0), bright_and_dark(tmp_path, 24, 1)


def weights(network) -> list[torch.Tensor]:
    return [value.clone() for value in network.state_dict().values()]


def test_it_learns_and_records_every_epoch(data):
    """Nor are groups needed; the seed decides."""
    training, validation = data
    unknown = replace(validation, group=torch.full_like(validation.group, -1))
    networks = [build_network("small_resnet", 2) for _ in range(3)]
    history, again, other = (
        learn(network, training, judge, under(epochs=8), seed=seed)
        for network, judge, seed in zip(networks, (validation, unknown, validation), (0, 0, 1), strict=True)
    )
    assert history["epoch"].tolist() == list(range(1, 9))
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0] / 2
    assert history["val_average"].iloc[-1] > 0.9
    assert (history["val_worst_group"] <= history["val_average"]).all()
    assert again["val_worst_group"].isna().all()
    assert all(torch.equal(a, b) for a, b in zip(*map(weights, networks[:2]), strict=True))
    assert not history["train_loss"].equals(other["train_loss"])


@pytest.mark.parametrize("sizes", [(), (20, 3)], ids=["sgd", "adam-auxiliary"])
def test_one_epoch_is_what_torch_does_by_hand(data, tmp_path, sizes):
    """Of auxiliary images too: one order of all, and the sum of the weighted mean losses of what a batch shows."""
    training, validation = data
    weight = torch.tensor([1.0, 6.0, 10.0])[: 1 + len(sizes)]
    others = [bright_and_dark(tmp_path, n, 2 + n) for n in sizes]
    auxiliary = [AuxiliaryData(f"of_{len(o.y)}", o, float(w)) for o, w in zip(others, weight[1:], strict=True)]
    adam = AdamSettings(epochs=1, batch_size=16, lr=1e-3, checkpoint="last")
    settings = adam if sizes else under(epochs=1, schedule="constant")
    ours = build_network("small_resnet", 2)
    history = learn(ours, training, validation, settings, augmentation=AS_THEY_ARE, auxiliary=auxiliary)

    theirs = build_network("small_resnet", 2).train()
    sgd = {"lr": 0.02, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}
    parameters = theirs.parameters()
    optimizer = torch.optim.Adam(parameters, lr=1e-3) if sizes else torch.optim.SGD(parameters, **sgd)
    shown = (training, *others)
    pixels, y = torch.cat([part.pixels.stacked() for part in shown]), torch.cat([part.y for part in shown])
    in_set = torch.repeat_interleave(torch.arange(len(shown)), torch.tensor([48, *sizes]))
    losses, found = 0.0, torch.zeros(len(shown), 2)
    for rows in torch.randperm(len(y), generator=torch.Generator().manual_seed(0)).split(16):
        logits, loss = theirs(pixels[rows].float() / 127.5 - 1), torch.zeros(())
        for k in in_set[rows].unique():
            of_set = in_set[rows] == k
            mean = cross_entropy(logits[of_set], y[rows][of_set])
            loss = loss + weight[k] * mean
            found[k] += torch.stack([mean.detach(), torch.ones(())]) * of_set.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses += loss.item() * len(rows) / len(y)
    assert found[:, 1].tolist() == [48, *sizes]
    assert not sizes or len(in_set) % 16, "the last batch is smaller"
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    row = history[["train_loss", *(f"loss_of_{n}" for n in sizes)]].iloc[0].tolist()
    np.testing.assert_allclose(row, [losses, *(found[1:, 0] / found[1:, 1]).tolist()], rtol=1e-4)


def test_cosine_falls_epoch_by_epoch_as_torchs(data):
    """From lr towards a hundredth of it, AFR's schedule."""
    history = learn(build_network("small_resnet", 2), *data, under(schedule="cosine", epochs=4))
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.02)
    theirs, expected = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=4, eta_min=0.02 / 100), []
    for _ in range(4):
        expected += theirs.get_last_lr()
        optimizer.step()
        theirs.step()
    np.testing.assert_allclose(history["lr"], expected, rtol=1e-6)


def test_early_logits_are_those_of_a_training_that_ends_there(data):
    """Nor does keeping them change the training."""
    early, plain, short = (build_network("small_resnet", 2) for _ in range(3))
    constant = {"schedule": "constant", "epochs": 4}
    outcome = trained(early, *data, under(**constant, early_epoch=2))
    assert trained(plain, *data, under(**constant)).early_logits is None
    assert all(torch.equal(a, b) for a, b in zip(weights(early), weights(plain), strict=True))
    learn(short, *data, under(schedule="constant", epochs=2))
    with torch.inference_mode():
        expected = short.eval()(data[1].pixels.take(torch.arange(24)).stacked().float() / 127.5 - 1)
    torch.testing.assert_close(outcome.early_logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("epoch", [3, 7])
def test_an_early_epoch_lies_before_the_last(epoch):
    with pytest.raises(ValidationError, match=f"early_epoch {epoch} is not before the last of 3 epochs"):
        under(early_epoch=epoch)
    assert under(early_epoch=2).early_epoch == 2


def test_schedules(data):
    constant, cycle = (
        learn(build_network("small_resnet", 2), *data, under(epochs=5, schedule=schedule, warmup=0.5))["lr"]
        for schedule in ("constant", "one_cycle")
    )
    assert (constant == 0.02).all()
    assert cycle.idxmax() in (1, 2)
    assert cycle.iloc[-1] < 0.001


@pytest.mark.parametrize("settings", [under(early_epoch=1), ADAM], ids=["one_cycle-last", "adam-worst_class"])
def test_an_interrupted_run_ends_with_the_same_weights(data, tmp_path, settings):
    auxiliary = [AuxiliaryData("few", bright_and_dark(tmp_path, 20, 2), 2.0)] if settings is ADAM else []
    undisturbed = build_network("small_resnet", 2)
    expected = trained(undisturbed, *data, settings, auxiliary=auxiliary)

    given = {"auxiliary": auxiliary, "resume": tmp_path / "resume.pt"}
    interrupted(lambda: learn(build_network("small_resnet", 2), *data, settings, **given), validations=2)

    # another initialization: everything has to come from the file
    resumed = build_network("small_resnet", 2, seed=99)
    found = trained(resumed, *data, settings, **given)
    pd.testing.assert_frame_equal(found.history, expected.history)
    if settings is not ADAM:
        assert torch.equal(found.early_logits, expected.early_logits)
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(undisturbed), strict=True))


@pytest.mark.parametrize(("rule", "kept"), [("last", 3), ("average", 1), ("worst_group", 3), ("worst_class", 2)])
def test_each_rule_keeps_its_first_best_epoch_and_the_higher_average_on_a_tie(data, monkeypatch, rule, kept):
    rows = iter(zip([0.5, 0.9, 0.9, 0.7], [0.4, 0.2, 0.3, 0.4], [0.1, 0.3, 0.6, 0.6], strict=True))
    snapshots = []

    def scripted(network, *rest):
        snapshots.append(weights(network))
        names = ("val_average", "val_worst_group", "val_worst_class")
        return dict(zip(names, next(rows), strict=True), val_loss=0.0), torch.zeros(24, 2)

    monkeypatch.setattr(erm, "_validate", scripted)
    network = build_network("small_resnet", 2)
    history = learn(network, *data, AdamSettings(epochs=4, batch_size=16, lr=1e-3, checkpoint=rule))
    assert all(torch.equal(a, b) for a, b in zip(weights(network), snapshots[kept], strict=True))
    assert history.loc[history["kept"], "epoch"].tolist() == [kept + 1]


def test_a_last_batch_of_one_image_is_left_out():
    cuts = [erm._cut(n, 16) for n in (1, 33, 34)]
    assert [(cut.used, cut.steps) for cut in cuts] == [(1, 1), (32, 2), (34, 3)]


def test_a_diverging_loss_is_named(data):
    network = build_network("small_resnet", 2)
    with pytest.raises(ValueError, match=r"the training loss is nan in epoch 1; lower lr \(now 1e\+30\)"):
        learn(network, *data, under(lr=1e30, schedule="constant"))


def test_files_and_cache_give_the_same_weights(tmp_path):
    """Of images at their own size: the same batches, to the last bit."""
    rng, y = np.random.default_rng(3), torch.arange(32) % 2
    height, width = rng.integers(16, 30, (2, 32))
    rows = pd.DataFrame({"path": [f"{i:02d}.png" for i in range(32)], "height": height, "width": width})
    for row in rows.itertuples():
        pixels = rng.integers(0, 256, (row.height, row.width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / row.path)
    rows, files = rows.assign(image_id=rows["path"]), (tmp_path / "decoded.npy", tmp_path / "decoded.parquet")
    decode_images(rows, tmp_path, *files, {}, workers=1)
    cached = open_cache(*files)(rows)
    transform = TransformSettings(resize=[16, 16], crop=[14, 14], mean=[0.5] * 3, std=[0.5] * 3)
    resized = {"size": [14, 14], "scale": [0.5, 1.0], "ratio": [0.75, 1.33]}
    augmentation = AugmentationSettings(random_resized_crop=resized, random_crop={"padding": 1}, flip=True)
    results = []
    for pixels in (ImageFiles(rows, tmp_path), cached, cached.kept_on(torch.device("cpu"))):
        network, images = build_network("small_resnet", 2), LabeledImages(pixels, y, y)
        history = learn(network, images, images, under(epochs=2), transform=transform, augmentation=augmentation)
        results.append((weights(network), history))
    for found, history in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found, results[0][0], strict=True))
        pd.testing.assert_frame_equal(history, results[0][1])


def test_images_stay_on_the_device_where_they_fit(data, monkeypatch):
    asked, moved, kept_on = [], [], Images.kept_on
    monkeypatch.setattr(Compute, "keeps", lambda self, n: asked.append(n) or True)
    monkeypatch.setattr(Images, "kept_on", lambda self, device: moved.append(len(self)) or kept_on(self, device))
    learn(build_network("small_resnet", 2), *data, under(epochs=1))
    assert asked == [(48 + 24) * 16 * 16 * 3]
    assert moved == [48, 24]


def test_bfloat16_learns_as_well_and_keeps_float32_weights(data, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)  # slow without, but computed
    network = build_network("small_resnet", 2)
    history = learn(network, *data, under(epochs=8), compute=Compute.on("cpu", precision="bfloat16"))
    assert history["val_average"].iloc[-1] > 0.9
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32, torch.int64}
    exact = learn(build_network("small_resnet", 2), *data, under(epochs=8))
    difference = (history["train_loss"] - exact["train_loss"]).abs()
    assert 0 < difference.max() < 0.1


def test_training_and_validation_go_through_the_compiled_network(data, monkeypatch):
    calls = []
    monkeypatch.setattr(
        torch, "compile", lambda network: lambda images: calls.append(network.training) or network(images)
    )
    learn(build_network("small_resnet", 2), *data, under(epochs=1), compute=Compute.on("cpu", compile=True))
    assert calls == [True] * 3 + [False] * 2


def test_a_damaged_state_is_ignored_with_a_warning(data, tmp_path, caplog):
    resume = tmp_path / "resume.pt"
    settings = under(epochs=1)
    expected = learn(build_network("small_resnet", 2), *data, settings, resume=resume)
    resume.write_bytes(resume.read_bytes()[:1000])
    pd.testing.assert_frame_equal(learn(build_network("small_resnet", 2), *data, settings, resume=resume), expected)
    assert "resume.pt cannot be read" in caplog.text
