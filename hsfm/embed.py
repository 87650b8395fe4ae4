"""From image files to a feature matrix, without the workflow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float32
from tqdm import tqdm

from hsfm.augment import transform as transformed
from hsfm.backbone import Network
from hsfm.device import choose_device
from hsfm.embeddings import extract
from hsfm.pixels import ImageFiles


def embed_images(
    network: Network,
    paths: Sequence[str | Path],
    *,
    transform: Mapping[str, Any],
    batch_size: int = 64,
    device: str = "auto",
) -> Float32[np.ndarray, "n d"]:
    """Features of image files under `network`, in eval mode.

    transform: `resize` and `crop` ([height, width] or None), `mean` and `std` of the three channels. Raises ValueError
    for an image that cannot be read, and where the images are not of one size after the transform.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} is not a number of images from 1")
    if not len(paths):
        raise ValueError("paths: there is no image")
    place = choose_device(device)
    network = network.to(place).eval()
    pixels = ImageFiles(pd.DataFrame({"path": [str(path) for path in paths]}), "")
    positions = tqdm(torch.arange(len(pixels)).split(batch_size), "embedding", unit="batch", disable=None)
    batches = (pixels.batch(rows, place) for rows in positions)
    return extract(lambda images: network.features(transformed(images, transform)), batches).numpy()
