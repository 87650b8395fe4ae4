import os
import shutil
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
from hsfm.data.store import decode_images, inspect, open_cache

SIZES = [(20, 30), (30, 20), (16, 16), (40, 50), (9, 12)]
RULE = {"exactly": [12, 12]}


@pytest.fixture
def photos(tmp_path):
    """Rows and folder of JPEG, PNG and GIF files of several sizes, two of them lying on their side."""
    folder, rng, n = tmp_path / "photos", np.random.default_rng(0), 25
    folder.mkdir()
    paths = [f"{number:03d}.{('jpg', 'png', 'gif')[number % 3]}" for number in range(n)]
    for number, name in enumerate(paths):
        exif = Image.Exif()
        if number in (3, 4):
            exif[0x0112] = 6
        Image.fromarray(rng.integers(0, 256, (*SIZES[number % 5], 3), dtype=np.uint8)).save(folder / name, exif=exif)
    return pd.DataFrame({"image_id": [f"photo {i}" for i in range(n)], "path": paths}), folder


def cache_files(folder: Path) -> tuple[Path, Path]:
    return folder / "cache/decoded.npy", folder / "cache/decoded.parquet"


def decoded(path: Path, rule) -> torch.Tensor:
    image = torch.from_numpy(read_rgb(path)).permute(2, 0, 1)
    return resize(image, *stored_size(*image.shape[1:], rule))


@pytest.mark.parametrize("rule", [{}, RULE, {"exactly": [13]}])
def test_the_store_holds_every_image_at_the_size_of_the_rule(photos, tmp_path, rule, monkeypatch):
    rows, folder = photos
    files = cache_files(tmp_path)
    monkeypatch.setattr(store, "AT_ONCE", 10)
    found = decode_images(rows, folder, *files, rule, workers=2)
    expected = [decoded(folder / path, rule) for path in rows["path"]]
    assert found["height"].tolist() == [read_rgb(folder / path).shape[0] for path in rows["path"]]
    shutil.rmtree(folder)
    images = open_cache(*files)(rows)
    assert all(torch.equal(view, one) for view, one in zip(images.each(), expected, strict=True))
    chosen = open_cache(*files)(rows[rows.index % 7 == 3])
    assert all(torch.equal(view, one) for view, one in zip(chosen.each(), expected[3::7], strict=True))
    np.testing.assert_array_equal(np.load(files[0]), images.pinned().pixels)


def test_the_same_images_give_the_same_bytes_whatever_the_threads(photos, tmp_path):
    contents = []
    for workers in (1, 3):
        files = cache_files(tmp_path / str(workers))
        decode_images(*photos, *files, RULE, workers=workers)
        contents.append([file.read_bytes() for file in files])
    assert contents[0] == contents[1]


def test_unreadable_images_are_said_and_left_out(photos, tmp_path):
    rows, folder = photos
    (folder / "000.jpg").write_text("no image")
    (folder / "006.jpg").write_bytes((folder / "006.jpg").read_bytes()[:-80])
    (folder / "007.png").unlink()
    found = decode_images(rows, folder, *cache_files(tmp_path), RULE, workers=2)
    pd.testing.assert_frame_equal(inspect(rows, folder, workers=2), found)
    problems = found["problem"].dropna()
    assert problems.index.tolist() == [0, 6, 7]
    for problem, reason in zip(problems, ("not an image in ", "truncated", "No such file"), strict=True):
        assert reason in problem
        assert not problem.startswith(str(folder))
    assert found.loc[problems.index, ["height", "width"]].isna().all(axis=None)
    good = rows[found["problem"].isna()].reset_index(drop=True)
    for path, view in zip(good["path"], open_cache(*cache_files(tmp_path))(good).each(), strict=True):
        assert torch.equal(view, decoded(folder / path, RULE))


def test_nothing_takes_its_place_before_it_is_whole(photos, tmp_path, monkeypatch):
    def stop(path):
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "read_rgb", stop)
    with pytest.raises(KeyboardInterrupt):
        decode_images(*photos, *cache_files(tmp_path), RULE, workers=1)
    assert not list((tmp_path / "cache").iterdir())


def test_a_store_of_other_images_is_refused(photos, tmp_path):
    rows, folder = photos
    decode_images(rows, folder, *cache_files(tmp_path), RULE, workers=2)
    with pytest.raises(ValueError, match=r"decoded\.parquet: is of other images than .*; to have it made anew: rm "):
        open_cache(*cache_files(tmp_path))(rows[::-1].reset_index(drop=True))


DAMAGES = {
    "truncated": (lambda pixels, _: os.truncate(pixels, 5000), "decoded.npy: not a readable packed array, perhaps"),
    "pixels gone": (lambda pixels, _: pixels.unlink(), "No such file"),
    "index cut": (lambda _, index: os.truncate(index, 200), "decoded.parquet: not a readable Parquet file"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_store_is_named_with_the_command(photos, tmp_path, damage, message):
    pixels, index = cache_files(tmp_path)
    decode_images(*photos, pixels, index, RULE, workers=2)
    damage(pixels, index)
    with pytest.raises(ValueError, match=f"{message}.*rm {pixels} {index}, and run again"):
        open_cache(pixels, index)
