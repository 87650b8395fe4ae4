"""Embeddings of all splits as files, standardized on request; gathered from shards."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from hsfm.data.table import SPLITS
from hsfm.features.embeddings import Embeddings, joined, read_embeddings, write_embeddings
from hsfm.features.standardize import Standardization, StandardizationSettings, fit, write_standardization


def write_splits(
    outputs: Mapping[str, str | Path], embed: Callable[[str], Embeddings], standardize: StandardizationSettings | None
) -> None:
    """Write the embeddings of every split and what was done to their features.

    outputs: files by split, and `standardization`. embed: gives those of a split, raw.
    """
    train = embed("train")
    if standardize is None:
        d = train.features.shape[1]
        standardization = Standardization(mean=torch.zeros(d), factor=torch.ones(d))  # which changes nothing
    else:
        standardization = fit(train.features, standardize.scale)
    for split in SPLITS:
        raw = train if split == "train" else embed(split)
        features = raw.features if standardize is None else standardization.apply(raw.features)
        write_embeddings(outputs[split], replace(raw, features=features))
    write_standardization(outputs["standardization"], standardization, {"checkpoint_sha256": train.checkpoint_sha256})


def read_shards(files: Sequence[str | Path], split: str) -> Embeddings:
    """Embeddings of one split out of the files of its shards, one after the other; some may hold no row."""
    parts = (read_embeddings(file, split=split, whole=False) for file in files)
    return joined(*(part for part in parts if part.image_id))
