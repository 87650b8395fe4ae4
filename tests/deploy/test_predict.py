import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from hsfm.core.files import read_safetensors, write_safetensors
from hsfm.data.pixels import image_batches, pack
from hsfm.data.transforms import TransformSettings, prepare
from hsfm.deploy import cli
from hsfm.deploy.export import save_model
from hsfm.deploy.predict import find_images, main, predict_folder
from hsfm.heads.head import Head
from hsfm.models.backbone import build_network

CLASSES = ("land bird", "water bird", "no bird, but a plane")
PLAIN = {"resize": None, "crop": None, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.25, 0.3]}
COLUMNS = ["path", "class", "probability", *(f"p_{name}" for name in CLASSES)]


def write_model(folder, *, transform_settings=PLAIN):
    """The file, its network and its head."""
    network, generator = build_network("small_resnet", len(CLASSES), seed=0).eval(), torch.Generator().manual_seed(4)
    weight = torch.randn(3, 128, generator=generator)
    with torch.no_grad():
        typical = network.features(torch.randn(50, 3, 1, 1, generator=generator).expand(-1, -1, 20, 20)).mean(0)
    # the images of an untrained network differ little; this bias puts them between the classes
    head = Head(weight, -(weight @ typical))
    path, named = folder / "model.safetensors", {"name": "small_resnet", "class_names": CLASSES}
    save_model(path, network, head, transform=transform_settings, **named)
    return path, network, head


def write_images(folder, names, *, size=(24, 20), seed=0):
    """PNGs of plain colors with some noise; height, width."""
    rng = np.random.default_rng(seed)
    pixels = [
        np.clip(rng.integers(0, 256, 3) + rng.integers(-40, 40, (*size, 3)), 0, 255).astype(np.uint8) for _ in names
    ]
    for name, image in zip(names, pixels, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / name)
    return np.stack(pixels)


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path)[0]


NAMES = ["B.PNG", "a.png", "b/1.png", "b/10.png", "b/2.png", "c.png", "d.png"]  # in the order of the table


@pytest.fixture
def folder(tmp_path):
    write_images(tmp_path / "images", NAMES[::-1])
    return tmp_path / "images"


@pytest.mark.parametrize("settings", [PLAIN, PLAIN | {"resize": [32, 32], "crop": [30, 28]}])
def test_predictions_are_those_from_the_embeddings(tmp_path, settings):
    path, network, head = write_model(tmp_path, transform_settings=settings)
    names = [f"{i:02d}.png" for i in range(23)]
    pixels = write_images(tmp_path / "images", names)
    frame = predict_folder(tmp_path / "images", path, batch_size=5, device="cpu")
    batches = image_batches(pack(list(pixels)), torch.arange(23), 8, torch.device("cpu"))
    transform = TransformSettings(**settings)
    features = torch.cat([network.features(prepare(batch, transform)) for batch in batches]).detach()
    expected = head.logits(features).softmax(dim=1).detach().numpy()
    assert list(frame.columns) == COLUMNS
    assert frame["path"].tolist() == names
    np.testing.assert_allclose(frame[COLUMNS[3:]], expected, atol=1e-5)
    assert frame["class"].tolist() == [CLASSES[y] for y in head.predict(features).tolist()]
    assert len(set(frame["class"])) > 1
    np.testing.assert_array_equal(frame["probability"], frame[COLUMNS[3:]].max(axis=1))


def test_the_batch_size_does_not_matter(folder, model):
    one, all_at_once = (predict_folder(folder, model, batch_size=size, device="cpu") for size in (1, 64))
    pd.testing.assert_frame_equal(one, all_at_once, atol=1e-5)


def test_images_are_found_in_subfolders_in_the_order_of_their_names(folder):
    for name in ("notes.txt", ".hidden.png", ".thumbnails/a.png", "b/archive.png.gz"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).touch()
    (folder / "folder.png").mkdir()
    assert find_images(folder) == NAMES


def test_files_that_are_left_out_are_counted_by_ending(folder, caplog):
    for name in ("a.heic", "b/B.HEIC", "c.avif", "README", ".hidden.png", "raw.nef"):
        (folder / name).write_bytes(b"\0\0\0\x18ftypheic")
    Image.new("RGB", (8, 8)).save(folder / "raw.nef", "TIFF")  # a camera's raw file with its thumbnail
    assert find_images(folder) == NAMES
    for count in ("6 files are left out", "2 .heic", "1 .avif", "1 without ending", "1 hidden", "1 .nef"):
        assert count in caplog.text


def test_an_image_is_what_decodes(folder, caplog):
    for name, form in (("e.jpe", "JPEG"), ("f", "PNG"), ("g.jpg_large", "JPEG")):
        Image.new("RGB", (8, 8)).save(folder / name, form)
    assert find_images(folder) == [*NAMES, "e.jpe", "f", "g.jpg_large"]
    assert not caplog.text


def test_csv_and_parquet_hold_the_same(tmp_path, folder, model, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    call = [str(folder), "--model", str(model), "--device", "cpu"]
    assert main(call) == 0
    assert capsys.readouterr().out.startswith("predictions.csv: 7 images (")
    assert cli.main(["predict", *call, "--out", "new/predictions.PARQUET", "--batch-size", "3"]) == 0
    expected = predict_folder(folder, model, device="cpu")
    csv, parquet = pd.read_csv("predictions.csv"), pd.read_parquet("new/predictions.PARQUET")
    assert csv["path"].tolist() == NAMES
    pd.testing.assert_frame_equal(csv, expected, check_dtype=False, rtol=1e-5)
    pd.testing.assert_frame_equal(parquet, expected, check_dtype=False, rtol=1e-5)
    assert os.listdir("new") == ["predictions.PARQUET"]


def test_images_of_several_sizes_are_brought_to_one(tmp_path):
    images, alone = tmp_path / "images", tmp_path / "alone"
    write_images(images, ["a.png", "b.png"], size=(40, 30))
    write_images(images, ["c.png"], size=(25, 50))
    alone.mkdir()
    (alone / "c.png").write_bytes((images / "c.png").read_bytes())
    for settings in ({"resize": [16, 16]}, {"crop": [20, 20]}):
        path, _, _ = write_model(tmp_path, transform_settings=PLAIN | settings)
        together, single = (predict_folder(folder, path, device="cpu") for folder in (images, alone))
        np.testing.assert_allclose(together[COLUMNS[3:]].to_numpy()[2:], single[COLUMNS[3:]], atol=1e-5)


def test_images_of_several_sizes_are_refused_where_nothing_resizes_them(tmp_path, folder, model):
    write_images(folder, ["c.png"], size=(25, 50))
    tensors, metadata = read_safetensors(model)
    write_safetensors(model, tensors, metadata | {"image_size": "[24, 20]"})
    message = r"c\.png: is 25 x 50 pixels \(height x width\), expected 24 x 20: this model neither resizes nor crops"
    with pytest.raises(ValueError, match=message):
        predict_folder(folder, model)


def test_an_unreadable_image_is_named_and_nothing_is_written(tmp_path, folder, model, capsys):
    out = tmp_path / "predictions.csv"
    (folder / "broken.jpg").write_text("no image")
    assert main([str(folder), "--model", str(model), "--out", str(out)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"ERROR: {folder}/broken.jpg: not an image in BMP")
    assert not out.exists()


def test_folders_without_images_are_named(tmp_path, model):
    (tmp_path / "empty").mkdir()
    for name in ("empty", "missing"):
        with pytest.raises(ValueError, match=rf"{name}: no such folder, or no image in it or below; looked for \.apng"):
            predict_folder(tmp_path / name, model)
    (tmp_path / "empty" / "a.heic").touch()
    with pytest.raises(ValueError, match=r"looked for .*, and found 1 \.heic"):
        find_images(tmp_path / "empty")


def test_a_checkpoint_that_is_no_exported_model_is_named(tmp_path, folder, model):
    tensors, metadata = read_safetensors(model)
    del metadata["method"]
    write_safetensors(tmp_path / "checkpoint.safetensors", tensors, metadata)
    with pytest.raises(ValueError, match=r"checkpoint\.safetensors: metadata lacks 'method'"):
        predict_folder(folder, tmp_path / "checkpoint.safetensors")


def test_a_device_that_hsfm_does_not_use_is_one_line(folder, model, capsys):
    assert main([str(folder), "--model", str(model), "--device", "mps"]) == 1
    assert capsys.readouterr().err == "ERROR: device: 'mps' is unknown; allowed are auto, cpu, cuda, cuda:0, ...\n"


def test_the_command_line(tmp_path, folder, capsys):
    with pytest.raises(SystemExit):
        main(["no folder", "--model", "no file", "--out", str(tmp_path / "predictions.xlsx")])
    assert "predictions.xlsx' ends neither in .csv nor in .parquet" in capsys.readouterr().err
    command = [sys.executable, "-m", "hsfm.predict", folder, "--model", folder / "a.png", "--out", "other.parquet"]
    failed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert failed.returncode == 1
    assert failed.stderr.startswith(f"ERROR: {folder / 'a.png'}: not a readable safetensors file")
    assert not (tmp_path / "other.parquet").exists()
