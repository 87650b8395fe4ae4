import json

import pytest
import torch
import torchvision
from safetensors.torch import load_file

from hsfm import __version__
from hsfm.core.files import read_safetensors, sha256
from hsfm.deploy.export import export_model
from hsfm.heads.head import Head, SavedHeads, write_heads
from hsfm.models.backbone import build_network, read_checkpoint, write_checkpoint

TRANSFORM = {"resize": None, "crop": None, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def write_network(folder, *, name="small_resnet", seed=0, classes=("a", "b"), transform=TRANSFORM):
    """A checkpoint with BatchNorm statistics of its own."""
    network = build_network(name, len(classes), seed=seed).train()
    with torch.no_grad():
        network(torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed)))
    path = folder / f"{name}{seed}.safetensors"
    metadata = {"dataset": "toy", "run": "0"} | ({"transform": json.dumps(transform)} if transform else {})
    write_checkpoint(path, network, name=name, class_names=classes, metadata=metadata)
    return path


def write_random_heads(path, checkpoint, *, seeds=(0, 1), d=128, classes=("a", "b")):
    generator = torch.Generator().manual_seed(7)
    saved = SavedHeads(
        head=Head(
            torch.randn(len(seeds), len(classes), d, generator=generator),
            torch.randn(len(seeds), len(classes), generator=generator),
        ),
        method="hsfm",
        seeds=seeds,
        class_names=classes,
        checkpoint_sha256=sha256(checkpoint),
        group_labels="selection",
        chosen_by="the best validation worst group",
    )
    write_heads(path, saved)
    return saved


def test_the_exported_network_is_the_backbone_with_that_head(tmp_path):
    checkpoint = write_network(tmp_path)
    saved = write_random_heads(tmp_path / "heads.safetensors", checkpoint, seeds=(3, 8))
    export_model(tmp_path / "model.safetensors", checkpoint=checkpoint, heads=tmp_path / "heads.safetensors", seed=8)
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    exported = read_checkpoint(tmp_path / "model.safetensors").network.eval()
    with torch.no_grad():
        features = read_checkpoint(checkpoint).network.eval().features(images)
        torch.testing.assert_close(exported(images), saved.head[1].logits(features), atol=1e-5, rtol=1e-5)
        assert not torch.allclose(exported(images), saved.head[0].logits(features), atol=0.1)


def test_torchvision_loads_it_as_is(tmp_path):
    checkpoint = write_network(tmp_path, name="resnet18")
    saved = write_random_heads(tmp_path / "heads.safetensors", checkpoint, d=512)
    path = tmp_path / "model.safetensors"
    export_model(path, checkpoint=checkpoint, heads=tmp_path / "heads.safetensors", seed=0)
    theirs = torchvision.models.resnet18(num_classes=2).eval()
    theirs.load_state_dict(load_file(path), strict=True)
    assert torch.equal(theirs.fc.weight, saved.head.weight[0])
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), read_checkpoint(path).network.eval()(images))


def test_everything_but_the_head_is_the_checkpoints(tmp_path):
    checkpoint = write_network(tmp_path)
    write_random_heads(tmp_path / "heads.safetensors", checkpoint)
    path = tmp_path / "model.safetensors"
    export_model(path, checkpoint=checkpoint, heads=tmp_path / "heads.safetensors", seed=1)
    before, described = read_safetensors(checkpoint)
    after, metadata = read_safetensors(path)
    assert before.keys() == after.keys()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"fc.weight", "fc.bias"}
    assert metadata == described | {
        "method": "hsfm",
        "seed": "1",
        "group_labels": "selection",
        "chosen_by": "the best validation worst group",
        "checkpoint_sha256": sha256(checkpoint),
        "package_version": __version__,
    }
    assert json.loads(metadata["transform"]) == TRANSFORM
    again = tmp_path / "again.safetensors"
    export_model(again, checkpoint=checkpoint, heads=tmp_path / "heads.safetensors", seed=1)
    assert again.read_bytes() == path.read_bytes()


def test_the_heads_of_another_checkpoint_are_refused(tmp_path):
    checkpoint, other = write_network(tmp_path), write_network(tmp_path, seed=1)
    heads = tmp_path / "heads.safetensors"
    write_random_heads(heads, checkpoint)
    message = f"small_resnet1.safetensors: checkpoint {sha256(other)}, but the hsfm heads are for {sha256(checkpoint)}"
    with pytest.raises(ValueError, match=message):
        export_model(tmp_path / "model.safetensors", checkpoint=other, heads=heads, seed=0)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_seed_that_is_not_there_or_not_told_lists_those_there_are(tmp_path):
    checkpoint, heads, path = write_network(tmp_path), tmp_path / "heads.safetensors", tmp_path / "model.safetensors"
    write_random_heads(heads, checkpoint, seeds=(3, 8))
    with pytest.raises(ValueError, match=r"heads.safetensors: no hsfm head of seed 0; the seeds are 3, 8"):
        export_model(path, checkpoint=checkpoint, heads=heads, seed=0)
    with pytest.raises(ValueError, match=r"heads.safetensors: several heads, name one by its seed; the seeds are 3, 8"):
        export_model(path, checkpoint=checkpoint, heads=heads)
    assert not path.exists()
    write_random_heads(heads, checkpoint, seeds=(3,))
    export_model(path, checkpoint=checkpoint, heads=heads)
    assert read_checkpoint(path).metadata["seed"] == "3"


def test_a_checkpoint_that_does_not_tell_its_transform_is_refused(tmp_path):
    checkpoint = write_network(tmp_path, transform=None)
    write_random_heads(tmp_path / "heads.safetensors", checkpoint)
    with pytest.raises(ValueError, match=r"small_resnet0\.safetensors: metadata lacks 'transform'"):
        export_model(
            tmp_path / "model.safetensors", checkpoint=checkpoint, heads=tmp_path / "heads.safetensors", seed=0
        )
