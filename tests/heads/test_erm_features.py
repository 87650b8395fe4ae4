from dataclasses import replace

import pytest
import torch

from hsfm.features.embeddings import write_embeddings
from hsfm.heads.erm_features import read_erm_features
from hsfm.heads.head import SavedHeads, stack, write_heads


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
