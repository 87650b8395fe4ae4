"""Resumable, sharded writes: parts that outlive a killed job, and shards, which are jobs of their own.

Parts do not depend on how many jobs share them: shards are joined to the very file that one job writes.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hsfm.core.files import fingerprint, open_parquet, write_atomically
from hsfm.core.progress import Progress

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

OPTIONS = {"compression": "zstd", "write_page_checksum": True}


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
    return [rows.iloc[first : first + size] for first in range(0, len(rows), size)]


def write_rows_in_parts(
    path: str | Path,
    rows: "pd.DataFrame",
    make: Callable[[Sequence["pd.DataFrame"], Callable[[int], None]], Iterator["pa.Table"]],
    *,
    size: int,
    what: str,
    depends_on: Any,
    shard: Shard = WHOLE,
) -> int:
    """Write what becomes of a shard's rows as one Parquet file; how many rows they are.

    make: from parts of `size` rows to their tables, in that order; it calls its second argument with the number of rows
    that are done. what: the work in words, `inpainting`. Until all parts are there they lie in a folder beside `path`,
    named after `depends_on`, a JSON-like value of all that they depend on: a run that was killed goes on after the
    last, and one of other settings starts anew. At the end such folders are removed.
    """
    import pyarrow.parquet as pq

    path, parts = Path(path), cut(rows, size)
    folder = path.with_name(f".{path.stem}-{fingerprint(depends_on)}")
    files = {folder / f"{number:06d}.parquet": parts[number] for number in shard.take(len(parts))}
    missing = {file: part for file, part in files.items() if not file.exists()}
    n, left = (sum(map(len, each.values())) for each in (files, missing))
    with Progress(what, n, "image", done=n - left) as bar:
        tables = make(list(missing.values()), bar.update) if missing else ()
        for file, table in zip(missing, tables, strict=True):
            with write_atomically(file) as temporary:
                pq.write_table(table, temporary, **OPTIONS)
    join(path, list(files))
    for leftover in path.parent.glob(f".{path.stem}-*"):
        shutil.rmtree(leftover)
    return n


def join(path: str | Path, files: Sequence[str | Path]) -> None:
    """Write Parquet files of one schema as one, a row group at a time; a file without a row may have another.

    Raises ValueError naming a file that cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    writer = None
    with write_atomically(path) as temporary, ExitStack() as stack:
        for group in _row_groups(files):
            writer = writer or stack.enter_context(pq.ParquetWriter(temporary, group.schema, **OPTIONS))
            writer.write_table(group)
        if writer is None:
            pq.write_table(pa.table({}), temporary)


def _row_groups(files: Iterable[str | Path]) -> Iterator["pa.Table"]:
    # apart from the writes, whose errors are not those of the file that is read
    for name in files:
        with open_parquet(name) as file:
            for number in range(file.num_row_groups if file.metadata.num_rows else 0):
                yield file.read_row_group(number)
