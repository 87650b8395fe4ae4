"""Parts of long work: made once, shared by shards, joined to the same bytes."""

import errno
from itertools import chain

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hsfm.core.shards import WHOLE, Shard, join, write_rows_in_parts

ROWS = pd.DataFrame({"row": range(20), "word": ["a", None] * 10})


@pytest.mark.parametrize(("n", "of"), [(10, 3), (3, 4), (0, 2), (7, 7), (100, 1)])
def test_shards_take_all_parts_in_order_and_none_twice(n, of):
    shares = [list(Shard.named(f"{number}-of-{of}").take(n)) for number in range(1, of + 1)]
    assert list(chain(*shares)) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert Shard.named(None) == WHOLE == Shard.named("1-of-1")


def tables(parts, done):
    for part in parts:
        done(len(part))
        yield pa.Table.from_pandas(part, preserve_index=False).replace_schema_metadata({"about": "rows"})


def write(path, make=tables, depends_on=0, shard=WHOLE) -> int:
    return write_rows_in_parts(path, ROWS, make, size=3, what="rows", depends_on=depends_on, shard=shard)


def test_parts_are_made_once_and_joined(tmp_path):
    """A run that is killed leaves its finished parts, and the next one makes the others."""
    asked = []

    def make(parts, done, dies=False):
        asked.append([int(part["row"].iloc[0]) for part in parts])
        for number, table in enumerate(tables(parts, done)):
            if dies and number == 2:
                raise KeyboardInterrupt
            yield table

    path = tmp_path / "rows.parquet"
    with pytest.raises(KeyboardInterrupt):
        write(path, lambda parts, done: make(parts, done, dies=True))
    assert not path.exists()
    (folder,) = tmp_path.iterdir()
    assert sorted(file.name for file in folder.iterdir()) == ["000000.parquet", "000001.parquet"]
    (tmp_path / ".rows-of-other-settings").mkdir()
    (tmp_path / ".other-rows").mkdir()
    assert write(path, make) == 20
    assert asked == [[0, 3, 6, 9, 12, 15, 18], [6, 9, 12, 15, 18]]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other-rows", "rows.parquet"]
    table = pq.read_table(path)
    assert table["row"].to_pylist() == list(range(20))
    assert table.schema.metadata[b"about"] == b"rows"
    write(path, make, depends_on=1)
    assert asked[-1] == asked[0], "other settings start anew"


@pytest.mark.parametrize("of", [2, 3, 9])
def test_what_shards_leave_is_joined_to_the_bytes_of_the_whole(tmp_path, of):
    """With nine shards of seven parts two have nothing to do."""
    write(tmp_path / "whole.parquet")
    files = [tmp_path / f"{number}.parquet" for number in range(1, of + 1)]
    rows = [write(file, shard=Shard(number, of)) for number, file in enumerate(files, 1)]
    assert sum(rows) == 20
    assert rows.count(0) == max(of - 7, 0)
    join(tmp_path / "joined.parquet", files)
    assert (tmp_path / "joined.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_a_file_that_cannot_be_read_is_named_and_nothing_is_written(tmp_path):
    write(tmp_path / "a.parquet")
    broken = tmp_path / "broken.parquet"
    broken.write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"broken.parquet: not a readable Parquet file, perhaps truncated"):
        join(tmp_path / "out.parquet", [tmp_path / "a.parquet", broken])
    assert not list(tmp_path.glob("*out*"))


def test_a_full_disk_is_not_blamed_on_a_part(tmp_path, monkeypatch):
    def full(self, table):
        raise OSError(errno.ENOSPC, "no room")

    write(tmp_path / "a.parquet")
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(OSError, match="cannot be written") as found:
        join(tmp_path / "out.parquet", [tmp_path / "a.parquet"])
    assert found.value.filename == str(tmp_path / "out.parquet")
