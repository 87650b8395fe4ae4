import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from hsfm.data.decode import read_rgb

RED, GREEN, BLUE, WHITE, GRAY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (7, 7, 7)
LOSSLESS = {"webp": {"lossless": True}}


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)


def write_png(path, pixels16):
    """A PNG of 16 bits per color channel, which Pillow cannot write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels16.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels16)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.mark.parametrize("suffix", ["bmp", "png", "ppm", "tif", "tiff", "webp"])
def test_lossless_files_give_their_pixels(tmp_path, pixels, suffix):
    path = tmp_path / f"image.{suffix}"
    Image.fromarray(pixels).save(path, **LOSSLESS.get(suffix, {}))
    read = read_rgb(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pixels)
    read[0] = 0  # torch asks for an array that it may write to


@pytest.mark.parametrize(
    ("mode", "color", "suffix", "expected"),
    [
        ("1", 1, "png", WHITE),
        ("L", 7, "png", GRAY),
        ("L", 7, "pgm", GRAY),
        ("LA", (7, 255), "png", GRAY),
        ("LA", (7, 0), "png", WHITE),
        ("P", 1, "png", RED),
        ("P", 1, "gif", RED),
        ("RGBA", (*RED, 255), "png", RED),
        ("RGBA", (*RED, 0), "png", WHITE),
        ("RGBA", (*RED, 51), "png", (255, 204, 204)),
        ("CMYK", (0, 255, 255, 0), "tif", RED),
        ("CMYK", (0, 255, 255, 0), "jpg", RED),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, mode, color, suffix, expected):
    image = Image.new(mode, (4, 5), color)
    if mode == "P":
        image.putpalette([*GREEN, *RED])
    image.save(tmp_path / f"image.{suffix}")
    np.testing.assert_array_equal(read_rgb(tmp_path / f"image.{suffix}"), np.full((5, 4, 3), expected))


def test_a_transparent_palette_color_is_white(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([*GREEN, *RED])
    image.putdata([0, 1])
    image.save(tmp_path / "image.png", transparency=1)
    np.testing.assert_array_equal(read_rgb(tmp_path / "image.png"), [[GREEN, WHITE]])


@pytest.mark.parametrize("kind", ["gray.png", "rgb.png", "gray.tif", "big-endian.tif", "gray.pgm"])
def test_of_16_bits_the_upper_8_remain(tmp_path, kind):
    values = np.random.default_rng(0).integers(0, 2**16, (5, 4, 3), dtype=np.uint16)
    path = tmp_path / kind
    if kind == "rgb.png":
        write_png(path, values)
    else:
        values[...] = values[..., :1]
        gray = values[..., 0].astype(">u2" if kind == "big-endian.tif" else "<u2")
        Image.fromarray(gray).save(path)
    np.testing.assert_array_equal(read_rgb(path), values // 256)


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_32_bits_are_refused(tmp_path, dtype):
    Image.fromarray(np.ones((5, 4), dtype)).save(tmp_path / "image.tif")
    with pytest.raises(ValueError, match=r"image\.tif: holds 32 bits per channel; expected 8 or 16"):
        read_rgb(tmp_path / "image.tif")


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (2, np.fliplr),
        (5, lambda upright: upright.transpose(1, 0, 2)),
        (6, lambda upright: np.rot90(upright, 1)),
    ],
)
def test_the_exif_orientation_is_applied(tmp_path, pixels, orientation, stored):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored(pixels))).save(tmp_path / "image.png", exif=exif)
    np.testing.assert_array_equal(read_rgb(tmp_path / "image.png"), pixels)


def test_an_exif_block_of_rubbish_does_not_matter(tmp_path):
    path = tmp_path / "image.jpg"
    Image.new("RGB", (4, 5), WHITE).save(path, exif=b"Exif\0\0rubbish, no TIFF header")
    np.testing.assert_array_equal(read_rgb(path), np.full((5, 4, 3), 255))


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_an_animation_shows_its_first_frame(tmp_path, suffix):
    path = tmp_path / f"image.{suffix}"
    first, *others = (Image.new("RGB", (4, 5), color) for color in (RED, GREEN, BLUE))
    first.save(path, save_all=True, append_images=others, **LOSSLESS.get(suffix, {}))
    np.testing.assert_array_equal(read_rgb(path), np.full((5, 4, 3), RED))


def test_what_is_no_image_is_named(tmp_path, pixels):
    Image.fromarray(pixels.repeat(20, 0)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-100])
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "postscript.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    (tmp_path / "folder.png").mkdir()
    for name, reason in (
        ("cut.png", "truncated"),
        ("text.png", "not an image in BMP, GIF, JPEG, PNG, PPM, TIFF, WEBP"),
        ("empty.png", "not an image"),
        ("postscript.png", "not an image"),
        ("folder.png", "Is a directory"),
        ("missing.png", "No such file"),
    ):
        with pytest.raises(ValueError, match=f"{name}: .*{reason}"):
            read_rgb(tmp_path / name)


def test_an_absurdly_large_image_is_refused(tmp_path, pixels, monkeypatch):
    Image.fromarray(pixels).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(ValueError, match=r"bomb\.png: Image size \(20 pixels\) exceeds limit"):
        read_rgb(tmp_path / "bomb.png")
