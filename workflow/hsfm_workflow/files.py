"""Files that a user brings: what a dataset is made of, what is missing of it, and how they are told from others."""

import os
from collections.abc import Iterable
from pathlib import Path

from snakemake.io import contains_wildcard

from hsfm.core.files import sha256
from hsfm_workflow import SPLITS

# What can be downloaded, and where else a loader finds the same.
DOWNLOADED = {
    "waterbirds": ["metadata.csv"],
    "dominoes": [
        *(f"MNIST/raw/{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")),
        *(f"cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
        "cifar-10-batches-py/test_batch",
    ],
}
ELSEWHERE = {
    "waterbirds": ["waterbird_complete95_forest2water2/metadata.csv"],
    "dominoes": [f"{array}_{split}.npy" for array in ("X", "y", "env") for split in SPLITS],
}
LISTS = [f"list_{kind}.{end}" for end in ("txt", "csv") for kind in ("attr_celeba", "eval_partition")]
TABLES = {"celeba": [*LISTS, "metadata.csv"]}  # labels that a user puts there


def raw_files(images: dict) -> list[str]:
    """The files that a dataset is made of, as far as a rule makes them or its table says so; the same before and after
    a download, or that would make the dataset stale.

    images: that section of a dataset's settings.
    """
    source = images["source"]
    if source == "metadata":
        return [images["metadata"]]
    folder = Path(images["folder"]) if "folder" in images else Path()
    if any((folder / file).exists() for file in ELSEWHERE.get(source, [])):
        return []
    downloaded = [os.path.normpath(folder / file) for file in DOWNLOADED.get(source, [])]
    return downloaded + [str(folder / file) for file in TABLES.get(source, []) if (folder / file).exists()]


def downloads(settings: dict[str, dict]) -> list[tuple[str, str, str, list[str]]]:
    """Name, source, folder and missing files of every download; a second folder of one source gets a number."""
    found: dict[str, tuple] = {}  # by folder, which several datasets may share
    for images in (own["images"] for own in settings.values() if own.get("images", {}).get("source") in DOWNLOADED):
        source, folder = images["source"], os.path.normpath(images["folder"])
        missing = [file for file in raw_files(images) if not Path(file).exists()]
        if missing and folder not in found:
            name = f"{source}_{len(found)}" if source in [name for name, *_ in found.values()] else source
            found[folder] = name, source, folder, missing
    return list(found.values())


def as_inputs(files: Iterable[str]) -> list[str]:
    """The files that a rule can have as inputs: all but those with braces, which Snakemake takes for wildcards.

    Scripts read them where the settings say, and `stamp` tells when they change.
    """
    return [file for file in files if not contains_wildcard(file)]


def stamp(file: str) -> str | None:
    """SHA-256 of a small file, size and modification time of a large one."""
    if not Path(file).exists():
        return None
    found = Path(file).stat()
    return sha256(file) if found.st_size <= 2**24 else f"{found.st_size} bytes of {found.st_mtime_ns}"


def folder_stamp(name: str) -> list[str]:
    """Names, sizes and times of a local folder's files; nothing of a model on the hub."""
    files = sorted(path for path in Path(name).rglob("*") if path.is_file()) if Path(name).is_dir() else []
    return [f"{path.relative_to(name)} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in files]
