import json
from dataclasses import replace

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from hsfm import __version__
from hsfm.core.files import read_safetensors, sha256
from hsfm.deploy.cli import main
from hsfm.deploy.export import export_model
from hsfm.features.standardize import Standardization, write_standardization
from hsfm.heads.head import Head, SavedHeads, write_heads
from hsfm.models.backbone import Checkpoint, build_network, read_checkpoint, write_checkpoint

TRANSFORM = {"resize": None, "crop": None, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def export(folder, *, name="small_resnet", d=128, seeds=(3, 8), seed=None, transform=TRANSFORM):
    """A checkpoint with BatchNorm statistics of its own, random heads, and the model exported from both."""
    checkpoint, heads, path = (folder / f"{file}.safetensors" for file in ("backbone", "heads", "model"))
    network = build_network(name, 2, seed=0).train()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        network(torch.randn(8, 3, 32, 32, generator=generator))
    metadata = {"dataset": "toy", "run": "0"} | ({"transform": json.dumps(transform)} if transform else {})
    write_checkpoint(checkpoint, Checkpoint(network, name, ("a", "b"), metadata, torch.zeros(3, 2)))
    weight, bias = (torch.randn(len(seeds), 2, *shape, generator=generator) for shape in ((d,), ()))
    saved = SavedHeads(Head(weight, bias), "hsfm", seeds, ("a", "b"), sha256(checkpoint), "selection", "a rule")
    write_heads(heads, saved)
    export_model(path, checkpoint=checkpoint, heads=heads, seed=seed)
    return checkpoint, saved, path


def test_the_exported_network_is_the_backbone_with_that_head(tmp_path):
    checkpoint, saved, path = export(tmp_path, seed=8)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    exported = read_checkpoint(path).network.eval()
    with torch.no_grad():
        features = read_checkpoint(checkpoint).network.eval().features(images)
        torch.testing.assert_close(exported(images), saved.head[1].logits(features), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(exported(images), saved.head[0].logits(features), atol=0.1)


def test_torchvision_loads_it_as_is(tmp_path):
    _, saved, path = export(tmp_path, name="resnet18", d=512, seed=3)
    theirs = torchvision.models.resnet18(num_classes=2).eval()
    theirs.load_state_dict(load_file(path), strict=True)
    assert torch.equal(theirs.fc.weight, saved.head.weight[0])
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), read_checkpoint(path).network.eval()(images))


def test_everything_but_the_head_is_the_checkpoints(tmp_path):
    checkpoint, _, path = export(tmp_path, seed=8)
    before, described = read_safetensors(checkpoint)
    after, metadata = read_safetensors(path)
    del before["early_logits"]
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"fc.weight", "fc.bias"}
    assert metadata == described | {
        "method": "hsfm",
        "seed": "8",
        "group_labels": "selection",
        "chosen_by": "a rule",
        "checkpoint_sha256": sha256(checkpoint),
        "package_version": __version__,
    }
    written = path.read_bytes()
    assert export(tmp_path, seed=8)[2].read_bytes() == written


def test_the_command_line_writes_the_same_file(tmp_path, capsys):
    checkpoint, _, path = export(tmp_path, seed=8)
    other = tmp_path / "other.safetensors"
    call = ["export", str(other), "--checkpoint", str(checkpoint), "--heads", str(tmp_path / "heads.safetensors")]
    assert main([*call, "--seed", "8"]) == 0
    assert other.read_bytes() == path.read_bytes()
    assert main(call) == 1
    assert "several heads, name one by its seed; the seeds are 3, 8" in capsys.readouterr().err


def test_the_heads_of_another_checkpoint_are_refused(tmp_path):
    checkpoint, saved, path = export(tmp_path, seed=8)
    heads = tmp_path / "other.safetensors"
    write_heads(heads, replace(saved, checkpoint_sha256="b" * 64))
    with pytest.raises(ValueError, match=f"checkpoint {sha256(checkpoint)}, but the hsfm heads are for b+"):
        export_model(path, checkpoint=checkpoint, heads=heads, seed=8)


def test_a_seed_that_is_not_there_or_not_told_lists_those_there_are(tmp_path):
    with pytest.raises(ValueError, match=r"heads.safetensors: no hsfm head of seed 0; the seeds are 3, 8"):
        export(tmp_path, seed=0)
    with pytest.raises(ValueError, match=r"heads.safetensors: several heads, name one by its seed; the seeds are 3, 8"):
        export(tmp_path)
    assert read_checkpoint(export(tmp_path, seeds=(3,))[2]).metadata["seed"] == "3"


def test_a_checkpoint_that_does_not_tell_its_transform_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"backbone\.safetensors: metadata lacks 'transform'"):
        export(tmp_path, seed=3, transform=None)


def test_a_head_for_standardized_features_is_folded_to_take_raw_ones(tmp_path):
    checkpoint, saved, path = export(tmp_path, seed=8)
    generator = torch.Generator().manual_seed(1)
    standardization = Standardization(torch.rand(128, generator=generator), torch.rand(128, generator=generator))
    files = {"checkpoint": checkpoint, "heads": tmp_path / "heads.safetensors", "standardization": tmp_path / "s"}
    write_standardization(files["standardization"], standardization, {"checkpoint_sha256": sha256(checkpoint)})
    export_model(path, **files, seed=8)
    images = torch.randn(5, 3, 32, 32, generator=generator)
    with torch.no_grad():
        features = standardization.apply(read_checkpoint(checkpoint).network.eval().features(images))
        logits = read_checkpoint(path).network.eval()(images)
    torch.testing.assert_close(logits, saved.head[1].logits(features), atol=1e-4, rtol=1e-4)
    write_standardization(files["standardization"], standardization, {"checkpoint_sha256": "b" * 64})
    with pytest.raises(ValueError, match=f"s: is for the features of checkpoint {'b' * 64}"):
        export_model(path, **files, seed=8)
