"""The table that every script of this folder writes, and the arguments that they share."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

COLUMNS = ["path", "label", "attribute", "split"]
SUFFIXES = (".jpg", ".jpeg", ".png")


def parser(about: str | None, folder: str) -> argparse.ArgumentParser:
    """With the release's folder, whose layout `folder` says, and the table."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("folder", type=Path, help=folder)
    made.add_argument("--out", type=Path, help="the table (FOLDER/metadata.csv)")
    made.add_argument("--seed", type=int, default=0, help="of what is drawn (%(default)s)")
    return made


def images_in(folder: Path) -> list[Path]:
    """Images of a folder, sorted. Raises ValueError where there are none."""
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise ValueError(f"{folder}: holds no image; is this the release's folder?")
    return found


def draw(paths: Sequence[Path], sizes: Iterable[int], rng: np.random.Generator) -> list[list[Path]]:
    """Parts of these sizes, drawn without replacement. Raises ValueError where there are too few."""
    sizes = list(sizes)
    if sum(sizes) > len(paths):
        raise ValueError(f"{paths[0].parent}: {len(paths)} images, expected at least {sum(sizes)}")
    order = rng.permutation(len(paths))
    parts = np.split(order[: sum(sizes)], np.cumsum(sizes)[:-1])
    return [[paths[place] for place in sorted(part)] for part in parts]


def write(rows: pd.DataFrame, args: argparse.Namespace) -> None:
    """Write the table with paths relative to the release's folder, and print the images of each group."""
    out = args.out or args.folder / "metadata.csv"
    rows = rows.assign(path=[Path(path).relative_to(args.folder).as_posix() for path in rows["path"]])
    rows[COLUMNS].sort_values("path").to_csv(out, index=False)
    counts = pd.crosstab([rows["label"], rows["attribute"]], rows["split"])
    print(counts.reindex(columns=["train", "val", "test"], fill_value=0).to_string())
    print(f"{out}: {len(rows)} images")
