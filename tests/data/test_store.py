import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hsfm.data import store
from hsfm.data.decode import read_rgb
from hsfm.data.decode_size import stored_size
from hsfm.data.resize import resize
from hsfm.data.store import CacheFiles, decode_images, open_cache

SIZES = [(20, 30), (30, 20), (16, 16), (40, 50), (9, 12)]
RULE = {"exactly": [12, 12]}


def write_photos(folder: Path, n: int = 25) -> pd.DataFrame:
    """JPEG, PNG and GIF files of several sizes, two of them lying on their side."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    paths = []
    for number in range(n):
        height, width = SIZES[number % 5]
        name = f"{number:03d}.{('jpg', 'png', 'gif')[number % 3]}"
        exif = Image.Exif()
        if number in (3, 4):
            exif[0x0112] = 6
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name, exif=exif)
        paths.append(name)
    return pd.DataFrame({"image_id": [f"photo {i}" for i in range(n)], "path": paths})


@pytest.fixture
def photos(tmp_path):
    return write_photos(tmp_path / "photos"), tmp_path / "photos"


def cache_files(folder: Path, rule=RULE) -> CacheFiles:
    return CacheFiles(folder / "cache/decoded.npy", folder / "cache/decoded.parquet", rule)


def make(rows, folder, files):
    decoded = decode_images(rows, folder, files, workers=2)
    decoded.finish()
    return decoded


def opened(rows, folder, files):
    return open_cache(lambda: iter((rows[:10], rows[10:])), folder, files, workers=2)


def left_over(files: CacheFiles) -> list[str]:
    return sorted(path.name for path in files.folder.iterdir() if path.name.startswith(".") and "lock" not in path.name)


@pytest.mark.parametrize("rule", [{}, RULE, {"exactly": [13]}])
def test_the_cache_holds_every_image_at_the_size_of_the_rule(photos, tmp_path, rule):
    rows, folder = photos
    files = cache_files(tmp_path, rule)
    decoded = make(rows, folder, files)
    images = opened(rows, folder, files).images
    assert len(images) == len(rows)
    for path, original, view in zip(rows["path"], decoded.found.itertuples(), images.each(), strict=True):
        expected = torch.from_numpy(read_rgb(folder / path)).permute(2, 0, 1)
        assert (original.original_height, original.original_width) == tuple(expected.shape[1:])
        assert torch.equal(view, resize(expected, *stored_size(*expected.shape[1:], rule)))
    assert not left_over(files)
    np.testing.assert_array_equal(np.load(files.pixels).ravel()[: images.n_bytes], images.pinned().pixels.ravel())


def test_images_of_one_size_are_known_to_be(photos, tmp_path):
    rows, folder = photos
    same = rows[rows.index % 5 == 2].reset_index(drop=True)
    files = cache_files(tmp_path, {})
    make(same, folder, files)
    assert opened(same, folder, files).images.shape == (16, 16)


def test_rows_are_chosen_by_their_number_in_the_table(photos, tmp_path):
    rows, folder = photos
    files = cache_files(tmp_path)
    make(rows, folder, files)
    cache = opened(rows, folder, files)
    chosen = cache.take(rows[rows.index % 7 == 3])
    for view, number in zip(chosen.each(), range(3, 25, 7), strict=True):
        whole = list(cache.images.each())[number]
        assert torch.equal(view, whole)


def test_the_same_images_give_the_same_bytes_whatever_the_threads(photos, tmp_path):
    rows, folder = photos
    contents = []
    for workers in (1, 3):
        files = cache_files(tmp_path / str(workers))
        decode_images(rows, folder, files, workers=workers).finish()
        contents.append((files.pixels.read_bytes(), files.index.read_bytes()))
    assert contents[0] == contents[1]


def test_unreadable_images_are_said_and_left_out(photos, tmp_path):
    rows, folder = photos
    (folder / "000.jpg").write_text("no image")
    whole = (folder / "006.jpg").read_bytes()
    (folder / "006.jpg").write_bytes(whole[:-80])
    (folder / "007.png").unlink()
    files = cache_files(tmp_path)
    decoded = make(rows, folder, files)
    problems = decoded.found["problem"].dropna()
    assert problems.index.tolist() == [0, 6, 7]
    assert problems[0].startswith("not an image in ")
    assert "truncated" in problems[6]
    assert "No such file" in problems[7]
    good = rows[decoded.found["problem"].isna()].reset_index(drop=True)
    cache = opened(good, folder, files)
    for path, view in zip(good["path"], cache.images.each(), strict=True):
        image = torch.from_numpy(read_rgb(folder / path)).permute(2, 0, 1)
        assert torch.equal(view, resize(image, *stored_size(*image.shape[1:], RULE)))


def test_nothing_readable_at_all_is_said_too(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    rows = pd.DataFrame({"image_id": ["a"], "path": ["a.png"]})
    found = decode_images(rows, tmp_path, cache_files(tmp_path), workers=1).found
    assert found["problem"].notna().all()


KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.data.test_store import cache_files, make, write_photos
from hsfm.data import store
store.BLOCK = 4
read = store.read_rgb
store.read_rgb = lambda path: time.sleep(0.05) or read(path)
folder = Path(sys.argv[1])
make(write_photos(folder / "photos"), folder / "photos", cache_files(folder))
"""


def test_a_killed_decode_leaves_no_cache_and_goes_on_where_it_stopped(tmp_path, monkeypatch, caplog):
    write_photos(tmp_path / "photos")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "photos").iterdir()}
    command = [sys.executable, "-c", KILLED.format(tests=str(Path(__file__).parents[2])), str(tmp_path)]
    # the files are written again by the process, the same bytes at another time; what counts is set back below
    process = subprocess.Popen(command)
    files = cache_files(tmp_path)
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size for path in files.folder.glob(".*.journal")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not files.pixels.exists()
    assert not files.index.exists()
    assert len(left_over(files)) == 2
    rows = pd.DataFrame({"image_id": [f"photo {i}" for i in range(25)],
                         "path": sorted(path.name for path in stamps)})  # fmt: skip
    monkeypatch.setattr(store, "BLOCK", 4)
    read, seen = store.read_rgb, []
    monkeypatch.setattr(store, "read_rgb", lambda path: seen.append(path.name) or read(path))
    with caplog.at_level("INFO", logger="hsfm"):
        make(rows, tmp_path / "photos", files)
    done = int(caplog.text.split("going on after ")[1].split()[0])
    assert done % 4 == 0
    assert len(seen) == 25 - done
    monkeypatch.undo()
    undisturbed = cache_files(tmp_path / "undisturbed")
    make(rows, tmp_path / "photos", undisturbed)
    assert files.pixels.read_bytes() == undisturbed.pixels.read_bytes()
    assert files.index.read_bytes() == undisturbed.index.read_bytes()
    assert not left_over(files)


def test_a_journal_that_was_cut_off_counts_as_far_as_it_goes(photos, tmp_path, monkeypatch):
    rows, folder = photos
    files = cache_files(tmp_path)
    monkeypatch.setattr(store, "BLOCK", 10)
    decoded = decode_images(rows, folder, files, workers=1)
    lines = decoded.journal.read_bytes().splitlines(keepends=True)
    lines = [line for line in lines if line.strip()]
    assert [json.loads(line)[0] for line in lines] == [0, 10, 20]
    decoded.journal.write_bytes(lines[0] + lines[1][:-9])
    read, seen = store.read_rgb, []
    monkeypatch.setattr(store, "read_rgb", lambda path: seen.append(path) or read(path))
    make(rows, folder, files)
    assert len(seen) == 15
    opened(rows, folder, files)


def test_what_comes_after_a_cut_counts_too(photos, tmp_path, monkeypatch):
    """Killed twice, the first time in the middle of a line."""
    rows, folder = photos
    files = cache_files(tmp_path)
    monkeypatch.setattr(store, "BLOCK", 10)
    journal = decode_images(rows, folder, files, workers=1).journal
    journal.write_bytes(journal.read_bytes()[:-9])
    assert sorted(store._read_journal(journal, 25)) == [0, 10]
    decode_images(rows, folder, files, workers=1)
    assert sorted(store._read_journal(journal, 25)) == [0, 10, 20]


def test_work_left_by_other_images_is_not_taken(photos, tmp_path):
    rows, folder = photos
    files = cache_files(tmp_path)
    first = decode_images(rows, folder, files, workers=1)
    Image.new("RGB", (30, 20), "red").save(folder / "001.png")
    second = decode_images(rows, folder, files, workers=1)
    assert second.part != first.part
    second.finish()
    image = list(opened(rows, folder, files).images.each())[1]
    assert (image == torch.tensor([255, 0, 0], dtype=torch.uint8)[:, None, None]).all()
    assert not left_over(files), "of the first neither"


def test_a_sound_cache_is_taken_as_it_is(photos, tmp_path):
    rows, folder = photos
    files = cache_files(tmp_path)
    make(rows, folder, files)
    shutil.rmtree(folder)
    assert len(opened(rows, folder, files).images) == len(rows)


def test_a_cache_of_another_table_rule_or_decoder_is_never_taken(photos, tmp_path, monkeypatch):
    rows, folder = photos
    files = cache_files(tmp_path)
    make(rows, folder, files)
    message = r"decoded\.parquet: is of other images, another decode size or another decoder; to have it made anew: rm "
    with pytest.raises(ValueError, match=message):
        opened(rows[::-1].reset_index(drop=True), folder, files)
    with pytest.raises(ValueError, match=message):
        opened(rows, folder, cache_files(tmp_path, {}))
    monkeypatch.setattr(store, "decoder", lambda: "another")
    with pytest.raises(ValueError, match=message):
        opened(rows, folder, files)


def damage_pixels(files):
    with open(files.pixels, "r+b") as handle:
        handle.seek(-500, os.SEEK_END)
        byte = handle.read(1)
        handle.seek(-1, os.SEEK_CUR)
        handle.write(bytes([byte[0] ^ 1]))


DAMAGES = {
    "a flipped bit": (damage_pixels, "decoded.npy: 1 of 25 images are damaged"),
    "truncated": (lambda f: os.truncate(f.pixels, 5000), "decoded.npy: not a readable packed array, perhaps truncated"),
    "pixels gone": (lambda f: f.pixels.unlink(), "decoded.npy: not there"),
    "index gone": (lambda f: f.index.unlink(), "decoded.parquet: not there"),
    "index cut": (lambda f: os.truncate(f.index, 200), "decoded.parquet: not a readable Parquet file"),
    "other pixels": (lambda f: np.save(f.pixels, np.zeros((9, 3), np.uint8)), "decoded.npy: holds [9, 3] numbers"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_cache_is_named_with_the_command_and_left_as_it_is(photos, tmp_path, damage, message):
    rows, folder = photos
    files = cache_files(tmp_path)
    make(rows, folder, files)
    damage(files)
    there = {path: path.read_bytes() for path in (files.pixels, files.index) if path.exists()}
    with pytest.raises(ValueError) as error:  # noqa: PT011 (looked at below)
        opened(rows, folder, files)
    assert message in str(error.value)
    assert f"rm {files.pixels} {files.index}, and run again" in str(error.value)
    assert {path: path.read_bytes() for path in (files.pixels, files.index) if path.exists()} == there


Usage = namedtuple("Usage", "total used free")


def test_what_does_not_fit_the_disk_is_refused_with_both_numbers(photos, tmp_path, monkeypatch):
    rows, folder = photos
    files = cache_files(tmp_path, {})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9 - 4000, 4000))
    seen = []
    monkeypatch.setattr(store, "read_rgb", seen.append)
    with pytest.raises(ValueError, match=r"decoded\.npy: the decoded images need 53\.5 kB, but 4\.0 kB are free there"):
        decode_images(rows, folder, files, workers=1)
    assert not seen, "before it starts"
    assert not left_over(files)


def test_a_disk_that_fills_up_meanwhile_is_said_alike(photos, tmp_path, monkeypatch):
    rows, folder = photos

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(ValueError, match="make room, or set pixels: files"):
        decode_images(rows, folder, cache_files(tmp_path), workers=1)
    assert not left_over(cache_files(tmp_path))
