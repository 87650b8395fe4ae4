"""The embeddings of all splits as files: whole or gathered from shards, the same bytes."""

from pathlib import Path

import pytest
import torch

from hsfm.core.shards import WHOLE, Shard
from hsfm.data.open_images import open_source
from hsfm.data.table import SPLITS, read_images
from hsfm.features.embeddings import read_embeddings, write_embeddings
from hsfm.features.extract import embed_table, feature_function
from hsfm.features.splits import read_shards, write_splits
from hsfm.features.standardize import StandardizationSettings, read_standardization
from tests.features.test_extract import COMPUTE, TRANSFORM, network, photos  # noqa: F401 (fixtures)


def write_whole(folder: Path, embed, standardize: StandardizationSettings | None) -> dict[str, Path]:
    outputs = {split: folder / f"{split}.parquet" for split in SPLITS}
    outputs["standardization"] = folder / "standardization.safetensors"
    write_splits(outputs, embed, standardize)
    return outputs


@pytest.fixture
def embed(photos, network):  # noqa: F811
    """Embeddings of a split, or of a shard of it."""
    features, path = feature_function(network, TRANSFORM, COMPUTE), photos[1]
    metadata = {"checkpoint_sha256": "a" * 64, "details": {"backbone": "b"}}
    early_logits = torch.randn(len(photos[0].split("val")), 2, generator=torch.Generator().manual_seed(0))

    def embed(split: str, shard: Shard = WHOLE):
        return embed_table(features, read_images(path), open_source(path), split=split, batch_size=3, compute=COMPUTE,
                           early_logits=early_logits, shard=shard, metadata=metadata)  # fmt: skip

    return embed


@pytest.mark.parametrize("standardize", [None, StandardizationSettings(scale=0.5)])
@pytest.mark.parametrize("of", [3, 20])
def test_gathered_shards_are_the_bytes_of_the_whole(embed, tmp_path, of, standardize):
    """With twenty shards some have no batch of a split."""
    whole = write_whole(tmp_path / "whole", embed, standardize)
    files = {split: [tmp_path / f"{split}-{number}.parquet" for number in range(1, of + 1)] for split in SPLITS}
    for split in SPLITS:
        shares = [embed(split, Shard(number, of)) for number in range(1, of + 1)]
        assert (min(len(share.y) for share in shares) == 0) == (of == 20)
        for file, share in zip(files[split], shares, strict=True):
            write_embeddings(file, share, whole=False)
    gathered = write_whole(tmp_path / "gathered", lambda split: read_shards(files[split], split), standardize)
    assert all(path.read_bytes() == whole[name].read_bytes() for name, path in gathered.items())
    saved, metadata = read_standardization(whole["standardization"])
    assert metadata == {"checkpoint_sha256": "a" * 64}
    assert bool(standardize) != torch.equal(saved.factor, torch.ones_like(saved.factor))
    assert torch.equal(read_embeddings(whole["test"]).features, saved.apply(embed("test").features))
    extra = {split: read_embeddings(whole[split]).extra for split in SPLITS}
    assert [list(extra[split]) for split in SPLITS] == [[], ["early_logits"], []]
    assert torch.equal(extra["val"]["early_logits"], embed("val").extra["early_logits"])
