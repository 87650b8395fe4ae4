"""Parts of long work: made once, shared by shards, joined to the same bytes."""

from itertools import chain

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hsfm.core.shards import WHOLE, Shard, cut, join, write_in_parts, write_rows_in_parts


@pytest.mark.parametrize(("n", "of"), [(10, 3), (3, 4), (0, 2), (7, 7), (100, 1)])
def test_shards_take_all_parts_in_order_and_none_twice(n, of):
    shares = [list(Shard.named(f"{number}-of-{of}").take(n)) for number in range(1, of + 1)]
    assert list(chain(*shares)) == list(range(n))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_without_a_name_a_shard_is_the_whole():
    assert Shard.named(None) == WHOLE == Shard.named("1-of-1")


def test_a_table_is_cut_into_parts():
    assert [part.index.tolist() for part in cut(pd.DataFrame({"a": range(5)}), 2)] == [[0, 1], [2, 3], [4]]


def test_parts_are_made_once_and_joined(tmp_path):
    """A run that is killed leaves its finished parts, and the next one makes the others."""
    asked = []

    def make(missing, dies=False):
        asked.append(list(missing))
        for number in missing:
            if dies and number == 2:
                raise KeyboardInterrupt
            yield pa.table({"row": range(number * 4, number * 4 + 4)}).replace_schema_metadata({"about": "rows"})

    path = tmp_path / "rows.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_in_parts(path, range(3), lambda missing: make(missing, dies=True), depends_on={"a": 1})
    assert not path.exists()
    (folder,) = tmp_path.iterdir()
    assert sorted(file.name for file in folder.iterdir()) == ["000000.parquet", "000001.parquet"]
    (tmp_path / ".rows-of-other-settings").mkdir()
    (tmp_path / ".other-rows").mkdir()
    write_in_parts(path, range(3), make, depends_on={"a": 1})
    assert asked == [[0, 1, 2], [2]]
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other-rows", "rows.parquet"]
    table = pq.read_table(path)
    assert table["row"].to_pylist() == list(range(12))
    assert table.schema.metadata[b"about"] == b"rows"
    write_in_parts(path, range(3), lambda missing: make(missing, dies=False), depends_on={"a": 2})
    assert asked[-1] == [0, 1, 2], "other settings start anew"


def test_a_part_that_a_power_cut_damaged_is_made_again(tmp_path, caplog):
    asked = []

    def make(missing):
        asked.append(list(missing))
        for table in numbers(missing):
            if len(asked) == 1 and table["row"][0].as_py() == 6:
                raise KeyboardInterrupt
            yield table

    path = tmp_path / "rows.parquet"
    with pytest.raises(KeyboardInterrupt):
        write_in_parts(path, range(4), make, depends_on={})
    (folder,) = tmp_path.iterdir()
    damaged = folder / "000001.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    write_in_parts(path, range(4), make, depends_on={})
    assert asked == [[0, 1, 2, 3], [1, 2, 3]]
    assert pq.read_table(path)["row"].to_pylist() == list(range(12))
    assert "000001.parquet: not a readable Parquet file" in caplog.text


def numbers(missing):
    """Parts of 3 rows, with text and a null in them."""
    for number in missing:
        rows = {"row": list(range(3 * number, 3 * number + 3)), "word": [f"{number}", None, "x"]}
        yield pa.table(rows).replace_schema_metadata({"about": "rows"})


@pytest.mark.parametrize("compression", ["zstd", "none"])
@pytest.mark.parametrize("of", [2, 3, 5, 9])
def test_what_shards_leave_is_joined_to_the_bytes_of_the_whole(tmp_path, of, compression):
    """With nine shards of seven parts two have nothing to do."""
    how = {"depends_on": {}, "compression": compression}
    write_in_parts(tmp_path / "whole.parquet", range(7), numbers, **how)
    files = []
    for number in range(1, of + 1):
        files.append(tmp_path / f"{number}.parquet")
        write_in_parts(files[-1], Shard(number, of).take(7), numbers, **how)
    assert sum(pq.read_metadata(file).num_rows == 0 for file in files) == max(of - 7, 0)
    join(tmp_path / "joined.parquet", files)
    assert (tmp_path / "joined.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    codec = pq.read_metadata(tmp_path / "joined.parquet").row_group(0).column(0).compression
    assert codec == {"zstd": "ZSTD", "none": "UNCOMPRESSED"}[compression]


def test_files_that_do_not_belong_together_are_named_and_nothing_is_written(tmp_path):
    def write(name, table):
        pq.write_table(table, tmp_path / name)
        return tmp_path / name

    a = write("a.parquet", pa.table({"row": [1]}))
    other = write("other.parquet", pa.table({"row": [1]}).replace_schema_metadata({"about": "others"}))
    empty = write("empty.parquet", pa.table({}))
    broken = write("broken.parquet", pa.table({"row": [1]}))
    broken.write_bytes(broken.read_bytes()[:-20])
    out = tmp_path / "out.parquet"
    with pytest.raises(ValueError, match=r"other.parquet: columns or metadata differ from those of .*a.parquet"):
        join(out, [a, other])
    with pytest.raises(ValueError, match=r"broken.parquet: not a readable Parquet file, perhaps truncated"):
        join(out, [a, broken])
    with pytest.raises(ValueError, match=r"out.parquet: none of the 2 files that it is made of holds a row"):
        join(out, [empty, empty])
    with pytest.raises(FileNotFoundError, match="gone"):
        join(out, [a, tmp_path / "gone.parquet"])
    assert not list(tmp_path.glob("*out*"))


def test_rows_become_tables_part_by_part_and_shards_join_to_the_same_bytes(tmp_path):
    rows, counted = pd.DataFrame({"row": range(11)}), []

    def make(parts, done):
        for part in parts:
            done(len(part))
            counted.append(len(part))
            yield pa.table({"twice": (2 * part["row"]).tolist()})

    how = {"size": 3, "what": "doubling", "depends_on": 0}
    assert write_rows_in_parts(tmp_path / "whole.parquet", rows, make, **how) == 11
    assert counted == [3, 3, 3, 2]
    assert pq.read_table(tmp_path / "whole.parquet")["twice"].to_pylist() == list(range(0, 22, 2))
    files = [tmp_path / f"{number}.parquet" for number in (1, 2)]
    shared = [write_rows_in_parts(file, rows, make, shard=Shard(n, 2), **how) for n, file in enumerate(files, 1)]
    assert shared == [6, 5]
    join(tmp_path / "joined.parquet", files)
    assert (tmp_path / "joined.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
