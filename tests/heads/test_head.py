import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import hsfm
from hsfm.features.embeddings import write_embeddings
from hsfm.heads.head import Head, SavedHeads, gather, read_erm_features, read_heads, stack, write_heads


@pytest.fixture
def saved(splits) -> SavedHeads:
    g = torch.Generator().manual_seed(0)
    return SavedHeads(
        head=Head(torch.randn(3, 2, 12, generator=g), torch.randn(3, 2, generator=g)),
        method="hsfm",
        seeds=(0, 5, 7),
        class_names=splits["val"].class_names,
        checkpoint_sha256=splits["val"].checkpoint_sha256,
        group_labels="selection",
        chosen_by="the epoch with the best validation worst group",
        settings={"inner_lr": 0.5, "kept_epoch": [1, 2, 3]},
        remarks=("", "hardly moved", ""),
    )


def test_stacked_logits_are_torch_linear(splits, saved):
    x = splits["val"].features
    logits = saved.head.logits(x)
    assert logits.shape == (3, len(x), 2)
    for s in range(3):
        expected = torch.nn.functional.linear(x, saved.head.weight[s], saved.head.bias[s])
        torch.testing.assert_close(logits[s], expected)
        torch.testing.assert_close(saved.head[s].logits(x), expected)
    assert torch.equal(saved.head.predict(x), logits.argmax(-1))
    again = stack([saved.head[s] for s in range(3)])
    assert torch.equal(again.weight, saved.head.weight)


def test_round_trip(tmp_path, saved):
    path = tmp_path / "heads.safetensors"
    write_heads(path, saved)
    read = read_heads(path)
    assert torch.equal(read.head.weight, saved.head.weight)
    assert torch.equal(read.head.bias, saved.head.bias)
    assert replace(read, head=saved.head) == saved
    held_out = torch.tensor([[0, -1, 1]], dtype=torch.int16)
    write_heads(path, replace(saved, held_out=held_out))
    assert torch.equal(read_heads(path).held_out, held_out)


def test_unsound_heads_are_not_written(tmp_path, saved):
    path = tmp_path / "heads.safetensors"
    weight = saved.head.weight.clone()
    weight[1, 0, 0] = float("nan")
    for change, message in (
        ({"head": Head(weight, saved.head.bias)}, "the hsfm head of seed 5 holds a NaN"),
        ({"seeds": (0, 1)}, r"weight \[3, 2, 12\] and bias \[3, 2\] do not fit 2 seeds and 2 classes"),
    ):
        with pytest.raises(ValueError, match=f"heads.safetensors: {message}"):
            write_heads(path, replace(saved, **change))
    assert not list(tmp_path.iterdir())


def test_heads_refuse_embeddings_that_are_not_theirs(splits, saved):
    val = splits["val"]
    saved.check_fits(val, "val.parquet")
    for change, message in (
        ({"features": val.features[:, :5]}, "features per image 5, but the hsfm heads are for 12"),
        ({"checkpoint_sha256": "b" * 64}, "checkpoint b+, but the hsfm heads are for a+"),
        ({"class_names": ("x", "y")}, r"classes \('x', 'y'\), but"),
    ):
        with pytest.raises(ValueError, match=f"val.parquet: {message}"):
            saved.check_fits(replace(val, **change), "val.parquet")


def test_heads_of_single_seeds_are_gathered(saved):
    """On features of their own they name every checkpoint."""
    single = [
        replace(saved, head=stack([saved.head[i]]), seeds=(seed,), remarks=()) for i, seed in enumerate(saved.seeds)
    ]
    whole = gather(single)
    assert torch.equal(whole.head.weight, saved.head.weight)
    assert torch.equal(whole.head.bias, saved.head.bias)
    assert (whole.seeds, whole.checkpoint_sha256, whole.remarks) == (saved.seeds, saved.checkpoint_sha256, ())
    two = gather([replace(single[0], remarks=("well",)), replace(single[1], checkpoint_sha256="b" * 64)])
    assert two.remarks == ("well", "")
    assert two.checkpoint_sha256 == f"{'a' * 64}, {'b' * 64}"


def test_public_names_load_lazily():
    assert hsfm.Head is Head
    with pytest.raises(AttributeError, match="has no attribute 'Haed'"):
        _ = hsfm.Haed
    program = "import hsfm, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_last_layer_of_a_network_is_a_head(splits):
    layer = torch.nn.Linear(12, 2)
    head = Head.of(layer)
    assert not head.weight.requires_grad
    torch.testing.assert_close(head.logits(splits["val"].features), layer(splits["val"].features).detach())


def test_the_head_and_the_splits_come_together_or_not_at_all(tmp_path, splits, erm_head):
    val = splits["val"]
    saved = SavedHeads(stack([erm_head]), "erm", (0,), val.class_names, val.checkpoint_sha256, "none", "nothing")
    write_heads(tmp_path / "heads.safetensors", saved)
    files = {split: tmp_path / f"{split}.parquet" for split in ("val", "train")}
    for split, path in files.items():
        write_embeddings(path, splits[split])
    erm, read = read_erm_features(tmp_path / "heads.safetensors", **files)
    assert torch.equal(erm.head[0].weight, erm_head.weight)
    assert [part.split for part in read] == ["val", "train"]
    write_embeddings(files["train"], replace(splits["train"], checkpoint_sha256="b" * 64))
    with pytest.raises(ValueError, match=r"train.parquet: checkpoint b+, but the erm heads are for a+"):
        read_erm_features(tmp_path / "heads.safetensors", **files)
    with pytest.raises(ValueError, match=r"val.parquet: holds the val split, expected test"):
        read_erm_features(tmp_path / "heads.safetensors", test=files["val"])
