"""Resumable, sharded writes: parts that outlive a killed job, and shards, which are jobs of their own.

The parts of a stage's work, and the order in which they come, do not depend on how many jobs share them, so that what
these leave can be joined to the very file that one job writes.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsfm.core.files import fingerprint, write_atomically, write_parquet
from hsfm.core.progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Shard:
    """One of several jobs that share the work of a stage."""

    number: int  # from 1
    of: int

    @staticmethod
    def named(name: str | None) -> "Shard":
        """The one called `3-of-8`; the only one, where there is no name."""
        return Shard(*map(int, name.split("-of-"))) if name else WHOLE

    def take(self, n: int) -> range:
        """Which of n parts are this shard's: consecutive ones, none where there are fewer parts than shards."""
        return range(n * (self.number - 1) // self.of, n * self.number // self.of)


WHOLE = Shard(1, 1)


def cut(rows: "pd.DataFrame", size: int) -> list["pd.DataFrame"]:
    """A table in parts of so many rows; the last may be shorter."""
    return [rows.iloc[first : first + size] for first in range(0, len(rows), size)]


def write_in_parts(
    path: str | Path,
    parts: range,
    make: Callable[[Sequence[int]], Iterator["pa.Table"]],
    *,
    depends_on: Any,
    compression: str = "zstd",
) -> None:
    """Write the tables of several parts, one after the other, as one Parquet file; none is made twice.

    parts: their numbers. make: from the numbers of those that are missing to their tables, in that order, the schema's
    metadata with each. Until all are there they lie in a folder beside `path`, named after `depends_on`, a JSON-like
    value of all that they depend on: a run that was killed goes on after the last, and one of other settings starts
    anew. One that is damaged is made again. At the end the folder is removed, and so are those of other settings.
    Without any part the file is empty.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(path)
    prefix = f".{path.stem}-"
    folder = path.with_name(prefix + fingerprint(depends_on))
    files = {number: folder / f"{number:06d}.parquet" for number in parts}
    missing = [number for number, file in files.items() if not _is_whole(file)]
    for number, table in zip(missing, make(missing) if missing else (), strict=True):
        with write_atomically(files[number]) as temporary:
            pq.write_table(table, temporary, compression=compression, write_page_checksum=True)
    if files:
        join(path, list(files.values()))
    else:
        write_parquet(path, pa.table({}), {})
    for leftover in path.parent.glob(f"{prefix}*"):
        shutil.rmtree(leftover)


def write_rows_in_parts(
    path: str | Path,
    rows: "pd.DataFrame",
    make: Callable[[Sequence["pd.DataFrame"], Callable[[int], None]], Iterator["pa.Table"]],
    *,
    size: int,
    what: str,
    depends_on: Any,
    shard: Shard = WHOLE,
    compression: str = "zstd",
) -> int:
    """Write what becomes of a shard's rows, `size` of them per part, as `write_in_parts` does; how many rows they are.

    make: from parts of the rows to their tables; it calls its second argument with the number of rows that are done.
    what: the work in words, `inpainting`.
    """
    parts = cut(rows, size)
    share = shard.take(len(parts))
    n = sum(len(parts[number]) for number in share)
    with Progress(what, n, "image") as bar:
        write_in_parts(
            path,
            share,
            lambda missing: make([parts[number] for number in missing], bar.update),
            depends_on=depends_on,
            compression=compression,
        )
    return n


def _is_whole(part: Path) -> bool:
    """Whether a killed job left this part; one that cannot be read is none."""
    if not part.exists():
        return False
    try:
        for _ in _row_groups([part]):
            pass
    except ValueError as error:
        log.warning("%s; it is made again", error)
        return False
    return True


def join(path: str | Path, files: Sequence[str | Path]) -> None:
    """Write Parquet files as one, a row group at a time; of one schema, but for those without a row.

    Raises ValueError naming a file that cannot be read or differs from the first in its schema or metadata, and where
    no file holds a row.
    """
    import pyarrow.parquet as pq

    first = None
    with write_atomically(path) as temporary, ExitStack() as stack:
        progress = stack.enter_context(Progress(f"joining {len(files)} files", None, "row"))
        for name, compression, group in _row_groups(files):
            if first is None:
                first = name
                options = {"compression": compression, "write_page_checksum": True}
                writer = stack.enter_context(pq.ParquetWriter(temporary, group.schema, **options))
            if not group.schema.equals(writer.schema, check_metadata=True):
                raise ValueError(f"{name}: columns or metadata differ from those of {first}")
            writer.write_table(group)
            progress.update(group.num_rows)
        if first is None:
            raise ValueError(f"{path}: none of the {len(files)} files that it is made of holds a row")


def _row_groups(files: Sequence[str | Path]) -> Iterator[tuple[str | Path, str, "pa.Table"]]:
    """Each row group of each file, with the file's name and compression; one without a row has none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name in files:
        try:
            with pq.ParquetFile(name, page_checksum_verification=True) as file:
                for number in range(file.num_row_groups if file.metadata.num_rows else 0):
                    codec = file.metadata.row_group(number).column(0).compression.lower()
                    yield name, "none" if codec == "uncompressed" else codec, file.read_row_group(number)
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise ValueError(f"{name}: not a readable Parquet file, perhaps truncated or damaged ({error})") from error
