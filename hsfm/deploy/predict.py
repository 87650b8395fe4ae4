"""Class and probabilities of every image in a folder, by a model that export_model wrote.

python -m hsfm.predict FOLDER --model FILE [--out predictions.parquet]
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from hsfm.core.device import choose_device
from hsfm.core.files import require, write_atomically, write_frame
from hsfm.core.progress import track
from hsfm.data.decode import SUFFIXES, read_rgb
from hsfm.data.pixels import pack
from hsfm.data.transforms import TransformSettings, prepare
from hsfm.models.backbone import Checkpoint, read_checkpoint


@torch.inference_mode()
def predict_folder(
    folder: str | Path, model: str | Path, *, batch_size: int = 64, device: str = "auto"
) -> pd.DataFrame:
    """One row per image of `folder` and its subfolders, in the order of their names.

    Columns: path (relative to `folder`), class (name), probability (of that class), and p_<class name> for every class.
    Holds one decoded image and one batch in memory. Raises ValueError where there is no image, for images that cannot
    be read (all are tried first), for images of several sizes where the model's transform neither resizes nor crops,
    and for a file that is not an exported model.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} is not a number of images from 1")
    trained, place = read_model(model), choose_device(device)
    network = trained.network.to(place).eval()
    names = find_images(folder)
    images = _transformed(Path(folder), names, trained.metadata, place)
    batches = iter(lambda: list(islice(images, batch_size)), [])
    logits = torch.cat([network(torch.cat(batch)).float().cpu() for batch in batches])
    probabilities = logits.softmax(dim=1).numpy()
    columns = {f"p_{name}": probabilities[:, y] for y, name in enumerate(trained.class_names)}
    classes = np.array(trained.class_names, dtype=object)[logits.argmax(dim=1).numpy()]
    paths = [os.fsencode(name).decode(errors="backslashreplace") for name in names]  # tables hold UTF-8, disks anything
    return pd.DataFrame({"path": paths, "class": classes, "probability": probabilities.max(axis=1), **columns})


def read_model(path: str | Path) -> Checkpoint:
    """Read an exported model; raise ValueError where another file, or none, is given."""
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file; make it with export_model")
    try:
        trained = read_checkpoint(path)
        require(trained.metadata, ("transform", "method"), path)
    except ValueError as error:
        raise ValueError(f"{error}; make the file with export_model") from error
    return trained


def find_images(folder: str | Path) -> list[str]:
    """Paths of the images in `folder` and its subfolders, relative to it, sorted whatever the file system's order.

    An image is a file with one of `SUFFIXES`, in small or capital letters. Hidden files and folders are left out, links
    to folders not followed. Raises ValueError where there is none.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{folder}: no such folder")
    files = [path for path in Path(folder).rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file()]
    paths = (path.relative_to(folder) for path in files)
    names = sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))
    if not names:
        raise ValueError(f"{folder}: no image in it or its subfolders; looked for {', '.join(SUFFIXES)}")
    return names


def _transformed(
    folder: Path, names: Sequence[str], metadata: Mapping[str, str], device: torch.device
) -> Iterator[Float[Tensor, "1 3 h w"]]:
    """Each image as the network's input; once one was unreadable, an error at the end that lists all those."""
    settings = TransformSettings(**json.loads(metadata["transform"]))
    size = json.loads(metadata.get("image_size", "null"))
    unreadable = []
    for name in track(names, "predicting", "image"):
        try:
            pixels = read_rgb(folder / name)
        except ValueError as error:
            unreadable.append(f"{name} ({str(error).removeprefix(f'{folder / name}: ')})")
        if unreadable:
            continue
        if settings.resize is None and settings.crop is None:
            size = list(size or pixels.shape[:2])
            if list(pixels.shape[:2]) != size:
                raise ValueError(
                    f"{folder / name}: is {pixels.shape[0]} x {pixels.shape[1]} pixels (height x width), expected "
                    f"{size[0]} x {size[1]}: this model neither resizes nor crops"
                )
        yield prepare(pack([pixels]).to(device), settings)
    if unreadable:
        listed = ", ".join(unreadable[:10]) + (", ..." if len(unreadable) > 10 else "")
        raise ValueError(f"{folder}: cannot read {len(unreadable)} of {len(names)} images: {listed}")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser("python -m hsfm.predict", description=__doc__.split("\n")[0])
    parser.add_argument("folder", metavar="FOLDER", help=f"searched with its subfolders for {', '.join(SUFFIXES)}")
    parser.add_argument("--model", metavar="FILE", required=True, help="what export_model wrote")
    parser.add_argument("--out", type=Path, default="predictions.csv", help=".csv or .parquet file (%(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images at once in the network (%(default)s)")
    parser.add_argument("--device", default="auto", help="cpu, a device as torch names it, or auto (%(default)s)")
    options = parser.parse_args(arguments)
    if options.out.suffix not in (".csv", ".parquet"):
        parser.error(f"{str(options.out)!r} ends neither in .csv nor in .parquet")
    try:
        frame = predict_folder(options.folder, options.model, batch_size=options.batch_size, device=options.device)
        if options.out.suffix == ".parquet":
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
