"""Small replicas of the datasets in their published layouts: drawn, not photographed, the same for one seed.

The background's color shows the attribute, a disc's color the class. In train a class mostly comes with its own
attribute; val and test hold all groups alike, val at least eight images of each.
"""

import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

TRAIN, VAL, TEST = (12, 3), 8, 4  # images per group; in train those that agree and those that do not
BACKGROUNDS = ((60, 140, 60), (60, 90, 190), (190, 150, 70), (140, 70, 150), (110, 110, 110))
FIGURES = ((30, 30, 30), (235, 235, 235), (240, 220, 60))
CELEBA_ATTRIBUTES = [f"Attribute_{number}" for number in range(40)]
CELEBA_ATTRIBUTES[9], CELEBA_ATTRIBUTES[20] = "Blond_Hair", "Male"  # their places in the original
METADATA_COLUMNS = {"path": "file", "y": "label", "attribute": "place", "split": "split", "id": "id"}


def save_picture(path: Path, rng: np.random.Generator, y: int, attribute: int, sides: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    width, height = (int(side) for side in rng.integers(*sides, 2))
    Image.fromarray(picture(rng, y, attribute, width, height)).save(path)


def picture(rng: np.random.Generator, y: int, attribute: int, width: int, height: int) -> np.ndarray:
    """A disc on a noisy ground, uint8 [h w 3]."""
    ground = np.clip(np.array(BACKGROUNDS[attribute]) + rng.normal(0, 12, (height, width, 3)), 0, 255)
    image = Image.fromarray(ground.astype(np.uint8))
    x, z, r = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.4, 0.6), 0.25 * min(width, height)
    ImageDraw.Draw(image).ellipse((x - r, z - r, x + r, z + r), fill=FIGURES[y])
    return np.asarray(image)


def labels(rng: np.random.Generator, classes: int = 2, attributes: int = 2) -> pd.DataFrame:
    """Shuffled y, attribute and split (as 0, 1, 2)."""
    groups = [(y, a) for y in range(classes) for a in range(attributes)]
    rows = [(y, a, 0) for y, a in groups for _ in range(TRAIN[y % attributes != a])]
    rows += [(y, a, split) for split, n in ((1, VAL), (2, TEST)) for y, a in groups for _ in range(n)]
    return pd.DataFrame(rng.permutation(rows), columns=["y", "attribute", "split"])


def write_waterbirds(folder: str | Path) -> None:
    """metadata.csv and JPEGs of 40 to 80 pixels in folders of species."""
    folder, rng = Path(folder), np.random.default_rng(0)
    rows = labels(rng)
    names = []
    for i, row in enumerate(rows.itertuples()):
        kind = ("Sparrow", "Gull")[row.y]
        names.append(f"{1 + row.y:03d}.{kind}/{kind}_{i:04d}.jpg")
        save_picture(folder / names[-1], rng, row.y, row.attribute, (40, 81))
    table = {"img_id": range(1, len(rows) + 1), "img_filename": names, "y": rows["y"], "split": rows["split"]}
    table |= {"place": rows["attribute"], "place_filename": [f"/b/bamboo_forest/{i:08d}.jpg" for i in range(len(rows))]}
    pd.DataFrame(table).to_csv(folder / "metadata.csv", index=False)


def write_celeba(folder: str | Path, layout: str = "torchvision") -> None:
    """JPEGs of 44 x 44 and the tables of one layout: torchvision, kaggle or dfr; the images are the same in all."""
    folder, rng = Path(folder), np.random.default_rng(0)
    rows = labels(rng)
    names = [f"{i:06d}.jpg" for i in range(1, len(rows) + 1)]
    images = folder / ("img_align_celeba/img_align_celeba" if layout == "kaggle" else "img_align_celeba")
    for name, row in zip(names, rows.itertuples(), strict=True):
        save_picture(images / name, rng, row.y, row.attribute, (44, 45))
    signed = pd.DataFrame(dict.fromkeys(CELEBA_ATTRIBUTES, -1), index=pd.Index(names, name="image_id"))
    signed["Blond_Hair"], signed["Male"] = 2 * rows["y"].to_numpy() - 1, 2 * rows["attribute"].to_numpy() - 1
    if layout == "torchvision":
        # the original aligns its numbers, so that two blanks stand before a 1
        cells = signed.to_string(header=False, index_names=False)
        (folder / "list_attr_celeba.txt").write_text(f"{len(names)}\n{' '.join(CELEBA_ATTRIBUTES)} \n{cells}\n")
        splits = "".join(f"{name} {split}\n" for name, split in zip(names, rows["split"], strict=True))
        (folder / "list_eval_partition.txt").write_text(splits)
    elif layout == "kaggle":
        signed.to_csv(folder / "list_attr_celeba.csv")
        partition = pd.DataFrame({"image_id": names, "partition": rows["split"]})
        partition.to_csv(folder / "list_eval_partition.csv", index=False)
    else:
        table = {"img_id": range(1, len(names) + 1), "img_filename": names, "y": rows["y"], "split": rows["split"]}
        pd.DataFrame({**table, "place": rows["attribute"]}).to_csv(folder / "metadata.csv", index=False)


def write_metashift(folder: str | Path) -> None:
    """JPEGs named by number in the folders of animals and contexts, and a context that the task leaves out.

    Held out are more images than elsewhere, or too few of them would be validation.
    """
    folder, rng = Path(folder), np.random.default_rng(0)
    contexts = ("sofa", "bed", "bench", "bike", "shelf", "boat")
    for place, n in {
        "train/cat/cat(sofa)": 8,
        "train/cat/cat(bed)": 10,
        "train/dog/dog(bench)": 8,
        "train/dog/dog(bike)": 10,
        "train/dog/dog(boat)": 2,
        "test/cat/cat(shelf)": 66,
        "test/dog/dog(shelf)": 58,
    }.items():
        animal, context = place.split("/")[-1].rstrip(")").split("(")
        for number in rng.choice(np.arange(2_300_000, 2_420_000), n, replace=False):
            path = folder / place / f"{number}.jpg"
            save_picture(path, rng, int(animal == "dog"), contexts.index(context) % 5, (32, 49))


def write_dominoes(folder: str | Path, layout: str = "raw") -> None:
    """MNIST and CIFAR-10 as torchvision leaves them (raw), or the authors' nine arrays (arrays)."""
    (_write_arrays if layout == "arrays" else _write_raw)(Path(folder), np.random.default_rng(0))


def _write_raw(folder: Path, rng: np.random.Generator) -> None:
    # a fifth of train becomes val, where every group needs eight of a pool's images
    for mnist, batches, n in (("train", [f"data_batch_{i}" for i in range(1, 6)], 100), ("t10k", ["test_batch"], 20)):
        digits = rng.permutation(np.repeat([0, 1, 2, 7], (n, n, n // 10, n // 10)))
        images = np.stack([_digit(rng, int(digit > 0)) for digit in digits])
        write_idx(folder / f"MNIST/raw/{mnist}-images-idx3-ubyte", images)
        write_idx(folder / f"MNIST/raw/{mnist}-labels-idx1-ubyte", digits.astype(np.uint8))
        kinds = rng.permutation(np.repeat([1, 9, 0, 5], (n, n, n // 10, n // 10)))
        images = np.stack([picture(rng, int(kind == 9), 4, 32, 32).transpose(2, 0, 1).reshape(-1) for kind in kinds])
        for name, rows in zip(batches, np.array_split(np.arange(len(kinds)), len(batches)), strict=True):
            batch = folder / "cifar-10-batches-py" / name
            batch.parent.mkdir(exist_ok=True)
            batch.write_bytes(pickle.dumps({"data": images[rows], "labels": kinds[rows].tolist()}))


def _write_arrays(folder: Path, rng: np.random.Generator) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rows = labels(rng)
    for split, name in enumerate(("train", "val", "test")):
        some = rows[rows["split"] == split].sort_values(["y", "attribute"])
        images = np.stack([domino(rng, row.y, row.attribute) for row in some.itertuples()])
        np.save(folder / f"X_{name}.npy", images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
        np.save(folder / f"y_{name}.npy", some["y"].to_numpy(np.float32))
        np.save(folder / f"env_{name}.npy", (2 * some["y"] + some["attribute"]).to_numpy(np.int64))


def domino(rng: np.random.Generator, y: int, attribute: int) -> np.ndarray:
    """uint8 [64 32 3]"""
    below = np.repeat(np.pad(_digit(rng, attribute), 2)[..., None], 3, axis=2)
    return np.concatenate([picture(rng, y, 4, 32, 32), below])


def _digit(rng: np.random.Generator, digit: int) -> np.ndarray:
    """A ring or a bar, uint8 [28 28]."""
    image = Image.new("L", (28, 28))
    x = rng.uniform(12, 16)
    box = (x - 6, 5, x + 6, 23) if digit == 0 else (x, 5, x, 23)
    ImageDraw.Draw(image).ellipse(box, outline=255, width=3)
    return np.asarray(image)


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.tobytes())


def write_metadata(
    folder: str | Path,
    *,
    table: str = "metadata.csv",
    columns: Mapping[str, str | None] = METADATA_COLUMNS,
    classes: Sequence[str | int] = ("ant", "bee", "crab"),
    attributes: Sequence[str | int] = ("night", "day"),
    splits: Sequence[str | int] = ("train", "val", "test"),
    unknown: Sequence[str | int] = (),
) -> pd.DataFrame:
    """PNGs of 40 to 60 pixels and a table (.csv or .parquet) of them, which is returned.

    columns: what they are called, as `metadata.read` takes them; without a name the column is left out. classes,
    attributes, splits: what the table calls them. unknown: the splits whose attributes are empty.
    """
    folder, rng = Path(folder), np.random.default_rng(0)
    rows = labels(rng, len(classes), len(attributes))
    names = []
    for i, row in enumerate(rows.itertuples()):
        names.append(f"images/{'abc'[i % 3]}/{i:03d}.png")
        save_picture(folder / names[-1], rng, row.y, row.attribute, (40, 61))
    split = rows["split"].map(dict(enumerate(splits)))
    cells = {
        "id": [f"image {i}" for i in range(len(rows))],
        "path": names,
        "split": split,
        "y": rows["y"].map(dict(enumerate(classes))),
        "attribute": rows["attribute"].map(dict(enumerate(attributes))).where(~split.isin(unknown)),
    }
    frame = pd.DataFrame({columns[key]: cells[key] for key in cells if columns.get(key) is not None})
    if table.endswith(".parquet"):
        frame.to_parquet(folder / table, index=False)
    else:
        frame.to_csv(folder / table, index=False)
    return frame
