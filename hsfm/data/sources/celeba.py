"""CelebA: faces, aligned and cropped to 178 x 218.

Input: JPEG images. Class: 0 dark hair, 1 blond hair (Blond_Hair). Attribute: 0 female, 1 male (Male). Source: Liu et
al., "Deep learning face attributes in the wild", https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; MD5 of
img_align_celeba.zip 00d2c5bc6d35e252742224ab0c1e8fcb, of list_attr_celeba.txt 75e246fa4810816ffd6ee81facbd244c, of
list_eval_partition.txt d32c9cbf5e040fd4025c592c306e6668. License: the authors' own, non-commercial research only.
"""

from pathlib import Path
from typing import Literal

import pandas as pd

from hsfm.data.fields import PublishedFiles
from hsfm.data.labels import BINARY, SPLIT_CODES, look_up, read_text, require_files, require_filled, require_unique
from hsfm.data.table import Listing

CLASS_NAMES = ("dark", "blond")
ATTRIBUTE_NAMES = ("female", "male")

_NAMES = {"y": "Blond_Hair", "attribute": "Male"}
_SIGNED = {"-1": 0, "1": 1}
_ADVICE = (
    "CelebA cannot be fetched without an account. From https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html or Kaggle "
    "put its 202,599 images into img_align_celeba/ (Kaggle: img_align_celeba/img_align_celeba/) and beside it one of: "
    "list_attr_celeba.txt and list_eval_partition.txt (the original), list_attr_celeba.csv and "
    "list_eval_partition.csv (Kaggle), metadata.csv (DFR)."
)


class Settings(PublishedFiles):
    """CelebA in one of its published layouts."""

    source: Literal["celeba"]


def read(settings: Settings) -> Listing:
    """List a folder in any of three layouts, sorted by image name, which is the id; all three give the same labels.

    Labels: the original text files, as torchvision lays them out; else Kaggle's csv files; else DFR's metadata.csv.
    Images: in img_align_celeba/img_align_celeba (Kaggle), else img_align_celeba, else the folder itself.
    Raises ValueError naming file, row and value where a table is missing, cut short or holds another code than the
    published ones, where two tables list different images, or where listed images are not there.
    """
    folder = Path(settings.folder)
    source, rows = _read_labels(folder)
    image_id = rows["path"].str.replace(r"^.*/", "", regex=True)
    require_unique(image_id, f"{source}: the image column, without folders,")
    prefix = _image_prefix(folder)
    path = rows["path"].where(rows["path"].str.contains("/", regex=False), prefix + rows["path"])
    rows = rows.assign(image_id=image_id, path=path).sort_values("image_id", ignore_index=True)
    require_files(folder, rows["path"], source, _ADVICE)
    columns = ["image_id", "path", "y", "attribute", "split"]
    return Listing(rows[columns].astype({"y": "int32", "attribute": "Int32"}), CLASS_NAMES, ATTRIBUTE_NAMES)


def _image_prefix(folder: Path) -> str:
    places = ("img_align_celeba/img_align_celeba/", "img_align_celeba/")
    return next((place for place in places if (folder / place).is_dir()), "")


def _read_labels(folder: Path) -> tuple[Path, pd.DataFrame]:
    """The table that lists the images, and what the tables say: path as listed, y, attribute, split."""
    for suffix, read_pair in ((".txt", _read_original), (".csv", _read_kaggle)):
        pair = (folder / f"list_attr_celeba{suffix}", folder / f"list_eval_partition{suffix}")
        if all(table.is_file() for table in pair):
            return pair[0], _join(*pair, *read_pair(*pair))
    table = folder / "metadata.csv"
    if not table.is_file():
        raise ValueError(f"{folder}: holds no whole set of CelebA's tables. {_ADVICE}")
    text = read_text(table, {"path": "img_filename", "y": "y", "attribute": "place", "split": "split"})
    return table, _decode(text, table, {"y": "y", "attribute": "place", "split": "split"}, BINARY)


def _read_original(attributes: Path, partition: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    with open(attributes, encoding="utf-8", errors="replace") as file:
        count, header, first = file.readline().strip(), file.readline().split(), file.readline().split()
    for name in _NAMES.values():
        if name not in header:
            raise ValueError(f"{attributes}: line 2 names no attribute {name!r}; it names {', '.join(header)}")
    if len(first) != len(header) + 1:
        raise ValueError(f"{attributes}: line 3 has {len(first)} cells, expected an image and {len(header)} attributes")
    places = {"path": 0, "last": len(header), **{key: header.index(name) + 1 for key, name in _NAMES.items()}}
    labels = _read_blanks(attributes, 2, places)
    # where a cell is lost, those after it move up and the last is empty
    require_filled(labels["last"], f"{attributes}: column {header[-1]!r}")
    if count != str(len(labels)):
        raise ValueError(f"{attributes}: line 1 promises {count} images, but {len(labels)} follow")
    splits = _read_blanks(partition, 0, {"path": 0, "split": 1})
    return _decode(labels, attributes, _NAMES, _SIGNED), _decode(splits, partition, {"split": "split"}, {})


def _read_blanks(path: Path, skip: int, places: dict[str, int]) -> pd.DataFrame:
    """Columns, by name and position, of a table whose cells are separated by blanks."""
    try:
        text = pd.read_csv(
            path, sep=r"\s+", header=None, skiprows=skip, usecols=sorted(set(places.values())), dtype=str
        )
    except ValueError as error:
        raise ValueError(f"{path}: not a readable table ({error})") from error
    return pd.DataFrame({name: text[place] for name, place in places.items()})


def _read_kaggle(attributes: Path, partition: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    labels = read_text(attributes, {"path": "image_id", **_NAMES})
    splits = read_text(partition, {"path": "image_id", "split": "partition"})
    return _decode(labels, attributes, _NAMES, _SIGNED), _decode(splits, partition, {"split": "partition"}, {})


def _decode(text: pd.DataFrame, source: Path, names: dict[str, str], labels: dict[str, int]) -> pd.DataFrame:
    """Text as codes; `names` says how the table calls its columns."""
    require_filled(text["path"], f"{source}: the image column")
    require_unique(text["path"], f"{source}: the image column")
    meaning = {"y": labels, "attribute": labels, "split": SPLIT_CODES}
    return text.assign(
        **{key: look_up(text[key], meaning[key], f"{source}: column {name!r}") for key, name in names.items()}
    )


def _join(attributes: Path, partition: Path, labels: pd.DataFrame, splits: pd.DataFrame) -> pd.DataFrame:
    for table, listed, other, others in (
        (attributes, labels, partition, splits),
        (partition, splits, attributes, labels),
    ):
        alone = ~listed["path"].isin(others["path"])
        if alone.any():
            raise ValueError(
                f"{table}: lists {alone.sum():,} images that {other.name} does not, "
                f"such as {listed['path'][alone].iloc[0]!r}"
            )
    return labels.merge(splits, on="path")
