"""Class and probabilities of every image in a folder, by a model that export_model wrote.

hsfm predict FOLDER --model FILE [--out predictions.parquet]
"""

import argparse
import json
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from hsfm.core.device import choose_device
from hsfm.core.files import require, write_atomically, write_frame
from hsfm.core.progress import Progress
from hsfm.data.decode import SUFFIXES, looks_like_image, read_rgb
from hsfm.data.pixels import pack
from hsfm.data.transforms import TransformSettings, prepare
from hsfm.models.backbone import read_checkpoint

log = logging.getLogger(__name__)


@torch.inference_mode()
def predict_folder(
    folder: str | Path, model: str | Path, *, batch_size: int = 64, device: str = "auto"
) -> pd.DataFrame:
    """One row per image of `folder` and its subfolders, in the order of their names.

    Columns: path (relative to `folder`), class (name), probability (of that class), and p_<class name> for every class.
    Holds one decoded image and one batch in memory. Raises ValueError where there is no image, for the first image that
    cannot be read or is not of the size that a transform without resize and crop was trained on, and for a file that is
    not an exported model.
    """
    trained, place = read_checkpoint(model), choose_device(device)
    require(trained.metadata, ("transform", "method"), model)
    network, names, logits = trained.network.to(place).eval(), find_images(folder), []
    with Progress("predicting", len(names), "image") as progress:
        for start in range(0, len(names), batch_size):
            some = names[start : start + batch_size]
            batch = torch.cat([_transformed(Path(folder) / name, trained.metadata, place) for name in some])
            logits.append(network(batch).float().cpu())
            progress.update(len(some))
    probabilities = torch.cat(logits).softmax(dim=1).numpy()
    columns = {f"p_{name}": probabilities[:, y] for y, name in enumerate(trained.class_names)}
    classes = np.array(trained.class_names, dtype=object)[torch.cat(logits).argmax(dim=1).numpy()]
    return pd.DataFrame({"path": names, "class": classes, "probability": probabilities.max(axis=1), **columns})


def find_images(folder: str | Path) -> list[str]:
    """Paths of the images in `folder` and its subfolders, relative to it, sorted whatever the file system's order.

    An image is a file with one of `SUFFIXES`, in small or capital letters, or of another name with an image's first
    bytes. Hidden files and folders are left out, links to folders not followed; a warning counts the files that are
    left out by their endings. Raises ValueError where there is no image.
    """
    names, left = [], Counter()
    for file in Path(folder).rglob("*"):
        path = file.relative_to(folder)
        if not file.is_file():
            continue
        if any(part.startswith(".") for part in path.parts):
            left["hidden"] += 1
        elif looks_like_image(file):
            names.append(path.as_posix())
        else:
            left[path.suffix.lower() or "without ending"] += 1
    found = ", ".join(f"{count} {ending}" for ending, count in left.most_common(20))
    if not names:
        looked = f"looked for {', '.join(SUFFIXES)}{f', and found {found}' if found else ''}"
        raise ValueError(f"{folder}: no such folder, or no image in it or below; {looked}")
    if left:
        log.warning("%s: %d files are left out, which are no images that hsfm reads: %s", folder, left.total(), found)
    return sorted(names)


def _transformed(path: Path, metadata: Mapping[str, str], device: torch.device) -> Float[Tensor, "1 3 h w"]:
    """An image as the network's input."""
    settings = TransformSettings(**json.loads(metadata["transform"]))
    pixels, size = read_rgb(path), json.loads(metadata.get("image_size", "null"))
    if settings.resize is None and settings.crop is None and size not in (None, list(pixels.shape[:2])):
        raise ValueError(
            f"{path}: is {pixels.shape[0]} x {pixels.shape[1]} pixels (height x width), expected "
            f"{size[0]} x {size[1]}: this model neither resizes nor crops"
        )
    return prepare(pack([pixels]).to(device), settings)


def main(arguments: Sequence[str] | None = None, program: str = "python -m hsfm.predict") -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(program, description=__doc__.split("\n")[0])
    parser.add_argument("folder", metavar="FOLDER", help=f"searched with its subfolders for {', '.join(SUFFIXES)}")
    parser.add_argument("--model", metavar="FILE", required=True, help="what export_model wrote")
    parser.add_argument("--out", type=Path, default="predictions.csv", help=".csv or .parquet file (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images at once in the network (%(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:NUMBER (%(default)s)")
    options = parser.parse_args(arguments)
    if options.out.suffix.lower() not in (".csv", ".parquet"):
        parser.error(f"{str(options.out)!r} ends neither in .csv nor in .parquet")
    try:
        frame = predict_folder(options.folder, options.model, batch_size=options.batch_size, device=options.device)
        if options.out.suffix.lower() == ".parquet":
            write_frame(options.out, frame)
        else:
            with write_atomically(options.out) as temporary:
                frame.to_csv(temporary, index=False)
    except (ValueError, OSError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1
    counts = ", ".join(f"{count} {name}" for name, count in frame["class"].value_counts().items())
    print(f"{options.out}: {len(frame)} images ({counts})")
    return 0
