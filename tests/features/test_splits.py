"""The embeddings of all splits as files: whole or gathered from shards, the same bytes."""

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from pydantic import ValidationError

from hsfm.core.shards import WHOLE, Shard
from hsfm.data import table as images_module
from hsfm.data.open_images import open_source
from hsfm.data.table import SPLITS, read_pieces
from hsfm.features import embeddings as embeddings_module
from hsfm.features.embeddings import EmbeddingSettings, read_embeddings, write_pieces
from hsfm.features.extract import embed_table, feature_function
from hsfm.features.splits import read_shards, write_splits
from hsfm.features.standardize import StandardizationSettings, read_standardization
from hsfm.models.backbone import build_network
from tests.features.test_extract import COMPUTE, TRANSFORM, network, photos  # noqa: F401 (fixtures)


def write_whole(folder: Path, pieces, standardize: StandardizationSettings | None) -> dict[str, str]:
    folder.mkdir()
    names = [*(f"{split}.parquet" for split in SPLITS), "standardization.safetensors"]
    outputs = {name.split(".")[0]: str(folder / name) for name in names}
    write_splits(outputs, pieces, standardize)
    return outputs


def digests(files: dict[str, str]) -> dict[str, str]:
    return {name: hashlib.sha256(Path(path).read_bytes()).hexdigest() for name, path in files.items()}


@pytest.fixture
def embed(photos, network, monkeypatch):  # noqa: F811
    """Embeddings of a split, or of a shard of it, from a table of several pieces."""
    monkeypatch.setattr(images_module, "ROWS_AT_ONCE", 25)
    monkeypatch.setattr(embeddings_module, "ROW_GROUP_BYTES", 4096)
    table, path = photos
    images_module.write_images(path, table)

    def embed(split: str, shard: Shard = WHOLE):
        return embed_table(
            feature_function(network, TRANSFORM, COMPUTE), lambda: read_pieces(path), open_source(path), split=split,
            batch_size=3, compute=COMPUTE, shard=shard,
            metadata={"checkpoint_sha256": "a" * 64, "details": {"backbone": "b"}},
        )  # fmt: skip

    return embed


@pytest.mark.parametrize("standardize", [None, StandardizationSettings(scale=0.5)])
@pytest.mark.parametrize("of", [2, 3, 20])
def test_gathered_shards_are_the_bytes_of_the_whole(embed, tmp_path, of, standardize):
    """With twenty shards some have no batch of a split."""
    whole = write_whole(tmp_path / "whole", embed, standardize)
    files = {split: [] for split in SPLITS}
    for number in range(1, of + 1):
        for split in SPLITS:
            files[split].append(tmp_path / f"{split}-{number}.parquet")
            write_pieces(files[split][-1], embed(split, Shard(number, of)), whole=False)
    rows = [pq.read_metadata(file).num_rows for file in files["val"]]
    assert (min(rows) == 0) == (of == 20)
    gathered = write_whole(tmp_path / "gathered", lambda split: read_shards(files[split], split), standardize)
    assert digests(gathered) == digests(whole)
    features = read_embeddings(whole["train"]).features
    if standardize:
        spread = features.std(0, correction=0)
        torch.testing.assert_close(spread[spread > 0], torch.full_like(spread[spread > 0], 0.5))
    saved, metadata = read_standardization(whole["standardization"])
    assert metadata == {"checkpoint_sha256": "a" * 64}
    assert bool(standardize) != torch.equal(saved.factor, torch.ones_like(saved.factor))


def test_shards_of_another_network_are_named(embed, tmp_path, photos):  # noqa: F811
    first, second = tmp_path / "first.parquet", tmp_path / "second.parquet"
    write_pieces(first, embed("val", Shard(1, 2)), whole=False)
    _, path = photos
    features = feature_function(build_network("small_resnet", 2, seed=9), TRANSFORM, COMPUTE)
    other = embed_table(
        features, lambda: read_pieces(path), open_source(path), split="val", batch_size=3, compute=COMPUTE,
        shard=Shard(2, 2),
        metadata={"checkpoint_sha256": "b" * 64, "details": {"backbone": "b"}},
    )  # fmt: skip
    write_pieces(second, other, whole=False)
    with pytest.raises(ValueError, match=r"second.parquet: was made of another dataset, network or transform than"):
        list(read_shards([first, second], "val"))
    with pytest.raises(ValueError, match=r"first.parquet: holds the val split, expected train"):
        list(read_shards([first], "train"))


@pytest.mark.parametrize(
    "change",
    [{"batch_size": 0}, {"standardize": {"scale": 0}}, {"standardize": {}}, {"train": ""}, {"standardise": None}],
)
def test_settings_out_of_bounds_are_refused(change):
    with pytest.raises(ValidationError, match=next(iter(change))):
        EmbeddingSettings(**change)
