import errno
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
import torch

from hsfm.core.files import (
    fingerprint,
    read_frame,
    read_frames,
    read_parquet,
    read_safetensors,
    write_atomically,
    write_frame,
    write_parquet,
    write_safetensors,
)

NUMBERS = pa.schema([("a", pa.int64())])


def fail_within(path: Path, error: Exception) -> None:
    with write_atomically(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="killed"):
        fail_within(path, RuntimeError("killed"))
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_a_write_replaces_the_file_and_what_a_killed_process_left_and_follows_the_umask(tmp_path):
    path, ordinary = tmp_path / "new" / "file.txt", tmp_path / "ordinary.txt"
    ordinary.write_text("")
    for text in ("first", "second"):
        with write_atomically(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
        temporary.write_text("half, of a process that was killed")
    with write_atomically(path) as temporary:
        temporary.write_text("whole")
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"]
    assert path.stat().st_mode == ordinary.stat().st_mode


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_writes_is_an_error_that_names_the_file(tmp_path, code):
    with pytest.raises(OSError, match=r"cannot be written \(.*\): '.*x.txt'") as caught:
        fail_within(tmp_path / "x.txt", OSError(code, "of a library, without a name"))
    assert (caught.value.errno, caught.value.filename) == (code, str(tmp_path / "x.txt"))
    assert not list(tmp_path.iterdir())


def test_safetensors_have_the_same_bytes_each_time(tmp_path):
    """The library orders metadata by a hash that differs from call to call."""
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(1, dtype=torch.uint8)}
    metadata = {key: key * 3 for key in "qwertyuiop"}
    paths = [tmp_path / f"{number}.safetensors" for number in range(3)]
    for path in paths:
        write_safetensors(path, tensors, metadata)
    assert len({path.read_bytes() for path in paths}) == 1
    found, described = read_safetensors(paths[0])
    assert torch.equal(found["b"], tensors["b"])
    assert found["a"].dtype == torch.uint8
    assert described == metadata


@pytest.mark.parametrize("kept", [0, 60, -1])
def test_a_truncated_file_is_named(tmp_path, kept):
    tensors, table = tmp_path / "x.safetensors", tmp_path / "x.parquet"
    write_safetensors(tensors, {"a": torch.ones(100)}, {})
    write_frame(table, pd.DataFrame({"a": range(100)}))
    for path, read in ((tensors, read_safetensors), (table, lambda path: read_parquet(path, NUMBERS))):
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ValueError, match=rf"{path.name}: not a readable .* truncated"):
            read(path)


def test_a_flipped_bit_of_a_table_is_noticed(tmp_path):
    path = tmp_path / "x.parquet"
    write_parquet(path, pa.table({"a": range(1000)}), {}, compression="none", use_dictionary=False)
    content = bytearray(path.read_bytes())
    content[4000] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x.parquet: not a readable Parquet file"):
        read_parquet(path, NUMBERS)


def test_columns_are_checked(tmp_path):
    path = tmp_path / "x.parquet"
    write_frame(path, pd.DataFrame({"a": [1, 2]}))
    with pytest.raises(ValueError, match=r"x.parquet: no column 'b'; the columns are a"):
        read_parquet(path, pa.schema([("b", pa.int64())]))
    with pytest.raises(ValueError, match=r"x.parquet: column 'a' holds int64, expected string"):
        read_parquet(path, pa.schema([("a", pa.string())]))
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path / "absent.parquet", NUMBERS)


def test_a_table_and_its_metadata_come_back(tmp_path):
    path = tmp_path / "x.parquet"
    write_parquet(path, pa.table({"b": list("abc"), "a": [1, 2, 3]}), {"names": ["ä"]})
    table, metadata = read_parquet(path, NUMBERS)
    assert (table.to_pydict(), metadata) == ({"a": [1, 2, 3]}, {"names": ["ä"]})
    assert read_parquet(path, pa.schema([]))[1] == metadata


def test_frames_are_read_by_column_and_say_where_rows_come_from(tmp_path):
    paths = [tmp_path / f"{number}.parquet" for number in range(2)]
    for number, path in enumerate(paths):
        write_frame(path, pd.DataFrame({"b": 0, "a": [number, number + 10], "c": 1}))
    assert read_frame(paths[0], ["a", "b"]).to_dict("list") == {"a": [0, 10], "b": [0, 0]}
    found = read_frames(paths, ["a"])
    assert found.to_dict("list") == {"a": [0, 10, 1, 11], "file": [str(path) for path in paths for _ in range(2)]}
    assert found.index.tolist() == [0, 1, 2, 3]


def test_fingerprint_ignores_order_and_sees_values():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})
