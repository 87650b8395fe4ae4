"""Time the image tables of CelebA and of a million images of one's own: the files are empty, since none is opened.

    python -m benchmarks.tables

Per table, in a process of its own: seconds to list it (labels, splits, and whether every file is there), to write it
and to read it back, and the highest memory.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from hsfm.data.sources import celeba, metadata
from hsfm.data.table import ImageTable, complete, read_images, write_images

CELEBA = 202_599
OWN = 1_000_000
COLUMNS = {"path": "img_filename", "y": "y", "attribute": "place", "split": "split"}


def touch(folder: Path, names: list[str]) -> None:
    for name in sorted({os.path.dirname(name) for name in names}):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in names:
        os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))


def make_celeba(folder: Path) -> None:
    """As torchvision lays it out; two attributes instead of forty, padded to the original's width."""
    names = [f"{i:06d}.jpg" for i in range(1, CELEBA + 1)]
    touch(folder, [f"img_align_celeba/{name}" for name in names])
    rng = np.random.default_rng(0)
    signs = rng.choice([-1, 1], (CELEBA, 2))
    other = [f"Other_{i}" for i in range(38)]
    lines = [f"{name} {a} {b}{' -1' * 38}" for name, (a, b) in zip(names, signs.tolist(), strict=True)]
    header = [str(CELEBA), " ".join(["Blond_Hair", "Male", *other])]
    (folder / "list_attr_celeba.txt").write_text("\n".join([*header, *lines]) + "\n")
    split = np.repeat([0, 1, 2], [162770, 19867, 19962]).tolist()
    partition = [f"{name} {s}" for name, s in zip(names, split, strict=True)]
    (folder / "list_eval_partition.txt").write_text("\n".join(partition) + "\n")


def make_own(folder: Path) -> None:
    names = [f"d{i // 5000:03d}/{i:07d}.jpg" for i in range(OWN)]
    touch(folder, names)
    rng = np.random.default_rng(0)
    labels = {"y": rng.integers(0, 5, OWN), "place": rng.integers(0, 3, OWN)}
    split = rng.choice([0, 1, 2], OWN, p=[0.7, 0.1, 0.2])
    pd.DataFrame({"img_filename": names, **labels, "split": split}).to_csv(folder / "metadata.csv", index=False)


def measure(name: str, folder: str) -> None:
    start = time.perf_counter()
    if name == "celeba":
        listing = celeba.read(celeba.Settings(source="celeba", folder=folder))
    else:
        own = metadata.Settings(
            source="metadata", folder=folder, metadata=f"{folder}/metadata.csv", columns=metadata.Columns(**COLUMNS)
        )
        listing = metadata.read(own)
    listed = time.perf_counter()
    rows = complete(listing.rows, listing.attribute_names)
    path = Path(folder, "listed.parquet")
    write_images(path, ImageTable(rows, name, listing.class_names, listing.attribute_names, folder))
    written = time.perf_counter()
    read_images(path)
    back = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"| {name} | {len(rows)} | {listed - start:.1f} | {written - listed:.1f} | {back - written:.2f} | {peak:.0f} |",
        flush=True,
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print("| table | rows | list, s | write, s | read back, s | memory, MB |", flush=True)
    print("| --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name, make in (("celeba", make_celeba), ("own", make_own)):
        with tempfile.TemporaryDirectory() as folder:
            make(Path(folder))
            subprocess.run([sys.executable, "-m", "benchmarks.tables", name, folder], check=True)


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(*sys.argv[1:])
    else:
        main()
