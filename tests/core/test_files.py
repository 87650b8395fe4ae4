import os
import subprocess
import sys
import time

import pandas as pd
import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from hsfm.core import files
from hsfm.core.files import (
    fingerprint,
    in_bytes,
    read_frame,
    read_frames,
    read_leftover,
    read_parquet,
    read_safetensors,
    sha256,
    write_atomically,
    write_frame,
    write_safetensors,
)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "kept.txt"
    path.write_text("old")

    def fail_half_way():
        with write_atomically(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        fail_half_way()
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_a_write_replaces_the_file_and_follows_the_umask(tmp_path):
    path, ordinary = tmp_path / "new" / "file.txt", tmp_path / "ordinary.txt"
    ordinary.write_text("")
    with write_atomically(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole"
    assert path.stat().st_mode == ordinary.stat().st_mode


def test_what_a_killed_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    program = (
        "import sys, time; from hsfm.core.files import write_atomically\n"
        "with write_atomically(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half'); print(flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", program]
    writers = [subprocess.Popen([*command, tmp_path / f"{i}.txt"], stdout=subprocess.PIPE) for i in range(2)]
    try:
        for writer in writers:
            writer.stdout.read(1)
        writers[0].kill()
        writers[0].wait()
        (tmp_path / ".decoded-0123.part").write_text("a cache that goes on later")
        with write_atomically(tmp_path / "other.txt") as temporary:
            temporary.write_text("whole")
        left = sorted(path.name[:9] for path in tmp_path.iterdir())
        assert left == [".1.txt." + left[0][7:], ".decoded-", "other.txt"]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()


def test_safetensors_are_the_same_bytes_in_every_process(tmp_path):
    program = (
        "import sys, torch; from hsfm.core.files import write_safetensors; "
        "write_safetensors(sys.argv[1], {'b': torch.arange(6.).view(2, 3), 'a': torch.ones(1, dtype=torch.uint8)}, "
        "{key: key * 3 for key in 'qwertyuiop'})"
    )
    hashes = set()
    for number in range(3):
        path = tmp_path / f"{number}.safetensors"
        subprocess.run([sys.executable, "-c", program, path], check=True)
        hashes.add(sha256(path))
    assert len(hashes) == 1
    tensors, metadata = read_safetensors(path)
    assert torch.equal(tensors["b"], torch.arange(6.0).view(2, 3))
    assert tensors["a"].dtype == torch.uint8
    assert metadata == {key: key * 3 for key in "qwertyuiop"}


@pytest.mark.parametrize("kept", [0, 7, 60, -1])
def test_a_truncated_file_is_named(tmp_path, kept):
    tensors, table = tmp_path / "x.safetensors", tmp_path / "x.parquet"
    write_safetensors(tensors, {"a": torch.ones(100)}, {})
    write_frame(table, pd.DataFrame({"a": range(100)}))
    for path, read in (
        (tensors, lambda: read_safetensors(tensors)),
        (table, lambda: read_parquet(table, pa.schema([("a", pa.int64())]))),
    ):
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ValueError, match=rf"{path.name}: not a readable .* truncated"):
            read()


def test_columns_are_checked(tmp_path):
    path = tmp_path / "x.parquet"
    write_frame(path, pd.DataFrame({"a": [1, 2]}))
    with pytest.raises(ValueError, match=r"x.parquet: no column 'b'; the columns are a"):
        read_parquet(path, pa.schema([("b", pa.int64())]))
    with pytest.raises(ValueError, match=r"x.parquet: column 'a' holds int64, expected string"):
        read_parquet(path, pa.schema([("a", pa.string())]))
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path / "absent.parquet", pa.schema([("a", pa.int64())]))


def test_frames_are_read_by_column(tmp_path):
    path = tmp_path / "history.parquet"
    write_frame(path, pd.DataFrame({"epoch": [1, 2], "loss": [0.5, 0.25], "kept": [True, False]}))
    assert read_frame(path, ["loss", "epoch"]).to_dict("list") == {"loss": [0.5, 0.25], "epoch": [1, 2]}
    with pytest.raises(ValueError, match=r"history.parquet: no column 'seed'; the columns are epoch, loss, kept"):
        read_frame(path, ["epoch", "seed"])
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"history.parquet: not a readable Parquet file"):
        read_frame(path, ["epoch"])


def test_frames_of_several_files_say_where_rows_come_from(tmp_path):
    paths = [tmp_path / f"{number}.parquet" for number in range(2)]
    for number, path in enumerate(paths):
        write_frame(path, pd.DataFrame({"a": [number, number + 10], "b": 0}))
    found = read_frames(paths, ["a"])
    assert found["a"].tolist() == [0, 10, 1, 11]
    assert found["file"].tolist() == [str(path) for path in paths for _ in range(2)]
    assert list(found) == ["a", "file"]
    assert found.index.tolist() == [0, 1, 2, 3]


def test_a_checksum_is_compared_and_foreign_files_have_none(tmp_path):
    path, foreign = tmp_path / "ours.safetensors", tmp_path / "foreign.safetensors"
    write_safetensors(path, {"a": torch.ones(100)}, {"about": "ones"})
    save_file({"a": torch.ones(100)}, foreign, {"about": "ones"})
    for each in (path, foreign):
        content = bytearray(each.read_bytes())
        assert read_safetensors(each)[1] == {"about": "ones"}
        content[-1] ^= 1
        each.write_bytes(content)
    with pytest.raises(ValueError, match=r"ours.safetensors: damaged; its bytes are not those that were written"):
        read_safetensors(path)
    assert len(read_safetensors(foreign)[0]["a"]) == 100


def test_what_a_killed_job_left_is_used_or_removed(tmp_path, caplog):
    path = tmp_path / "resume.safetensors"
    assert read_leftover(path) is None
    write_safetensors(path, {"a": torch.arange(3)}, {"epoch": "2"})
    tensors, metadata = read_leftover(path)
    assert (tensors["a"].tolist(), metadata) == ([0, 1, 2], {"epoch": "2"})
    path.write_bytes(path.read_bytes()[:-5])
    assert read_leftover(path) is None
    assert not path.exists()
    assert "resume.safetensors: not a readable safetensors file, perhaps truncated" in caplog.text


def test_what_another_machine_writes_is_left_until_it_is_a_day_old(tmp_path):
    other = tmp_path / ".a.parquet.abcdefgh.00c0ffee.part"
    for age, there in ((3600, True), (90000, False)):
        other.write_text("half")
        os.utime(other, (time.time() - age,) * 2)
        files._sweep.cache_clear()
        with write_atomically(tmp_path / "b") as temporary:
            temporary.write_text("whole")
        assert other.exists() == there


def test_fingerprint_ignores_order_and_sees_values():
    assert fingerprint({"a": 1, "b": [1, 2]}) == fingerprint({"b": [1, 2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 2})


@pytest.mark.parametrize(
    ("n", "text"),
    [(0, "0 B"), (999, "999 B"), (53_500, "53.5 kB"), (23_600_000_000, "23.6 GB"), (15 * 10**14, "1500.0 TB")],
)
def test_sizes_are_as_people_write_them(n, text):
    assert in_bytes(n) == text
