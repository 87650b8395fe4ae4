"""Write the embeddings of all splits, standardized on request."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from hsfm.core.progress import Progress
from hsfm.data.table import SPLITS
from hsfm.features.embeddings import Embeddings, read_pieces, write_pieces
from hsfm.features.standardize import (
    Moments,
    Standardization,
    StandardizationSettings,
    identity,
    write_standardization,
)


def write_splits(
    outputs: Mapping[str, str],
    pieces: Callable[[str], Iterable[Embeddings]],
    standardize: StandardizationSettings | None,
) -> None:
    """Write the embeddings of every split, and what was done to their features.

    outputs: the files by split, and `standardization`. pieces: gives those of a split, raw. standardize: None leaves
    them as they are. The files are the same however the pieces are cut.
    """
    standardization = _write_train(outputs["train"], pieces("train"), standardize)
    for split in SPLITS:
        if split != "train":
            write_pieces(outputs[split], _apply(standardization, pieces(split)))
    origin = next(read_pieces(outputs["train"])).checkpoint_sha256
    write_standardization(outputs["standardization"], standardization, {"checkpoint_sha256": origin})


def _write_train(path: str, pieces: Iterable[Embeddings], settings: StandardizationSettings | None) -> Standardization:
    """Write the training split, whose features are those that standardise: raw ones lie on disk in between."""
    raw = Path(path).with_name(".raw.parquet")
    raw.unlink(missing_ok=True)  # of a killed run
    if settings is None:
        write_pieces(path, pieces)
        return identity(next(read_pieces(path)).features.shape[1])
    write_pieces(raw, pieces)
    moments, n = Moments(), pq.read_metadata(raw).num_rows
    # row groups, where sums are the same however the pieces came
    for piece in _counted(read_pieces(raw), "measuring the spread of train", n):
        moments.add(piece.features)
    standardization = moments.standardization(settings.scale)
    write_pieces(path, _apply(standardization, _counted(read_pieces(raw), "standardizing train", n)))
    raw.unlink()
    return standardization


def _counted(pieces: Iterable[Embeddings], what: str, n: int) -> Iterator[Embeddings]:
    with Progress(what, n, "image") as progress:
        for piece in pieces:
            yield piece
            progress.update(len(piece.y))


def _apply(standardization: Standardization, pieces: Iterable[Embeddings]) -> Iterator[Embeddings]:
    return (replace(piece, features=standardization.apply(piece.features)) for piece in pieces)


def read_shards(files: Sequence[str | Path], split: str) -> Iterator[Embeddings]:
    """Embeddings of one split out of the files of its shards, one after the other; some may hold no row.

    Raises ValueError naming a file that is not one of theirs.
    """
    rows = {path: pq.read_metadata(path).num_rows for path in files}

    def pieces() -> Iterator[Embeddings]:
        first, origin = None, None
        for path in (path for path, n in rows.items() if n):
            for piece in read_pieces(path, split=split):
                metadata = (piece.dataset, piece.checkpoint_sha256, dict(piece.details), piece.class_names)
                if origin is None:
                    first, origin = path, metadata
                if metadata != origin:
                    raise ValueError(f"{path}: was made of another dataset, network or transform than {first}")
                yield piece

    yield from _counted(pieces(), f"gathering {split}", sum(rows.values()))
