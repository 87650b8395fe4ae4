"""Decode image files of any kind to uint8 RGB."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

SUFFIXES = (
    ".apng", ".bmp", ".gif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff",
    ".webp",
)  # fmt: skip

# Pillow goes by content: without this list a file called .png could hold PostScript, which Pillow hands to Ghostscript.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
_CERTAIN = ("BMP", "GIF", "JPEG", "PNG", "WEBP")  # a camera's raw file passes for a TIFF of its thumbnail


def read_rgb(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """Read one image, upright.

    An EXIF orientation is applied; an animation shows its first frame; transparency lies over white, as a viewer shows
    it; of 16 bits per channel the upper 8 remain; gray, palette and CMYK become RGB by Pillow's plain formulas, without
    color profiles. Raises ValueError naming the file where it is missing, no image of these formats, truncated,
    suspiciously large (Pillow's limit, 179 million pixels), or of 32 bits per channel, whose range is unknown.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return np.array(_rgb(image))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not an image in {', '.join(_FORMATS)}") from error
    except Exception as error:  # Pillow's decoders meet broken files with a dozen kinds of errors
        raise ValueError(f"{path}: {error or type(error).__name__}") from error


def looks_like_image(path: str | Path) -> bool:
    """Whether a file is an image that `read_rgb` reads: by its ending, else by its first bytes."""
    if Path(path).suffix.lower() in SUFFIXES:
        return True
    try:
        with Image.open(path, formats=_CERTAIN):
            return True
    except Exception:  # no image, no permission, ...
        return False


def _rgb(image: Image.Image) -> Image.Image:
    # Pillow before 11 opens a gray PNG of 16 bits as `I`, and so does every version with a PGM
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError("holds 32 bits per channel; expected 8 or 16")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    return image if image.mode == "RGB" else image.convert("RGB")
