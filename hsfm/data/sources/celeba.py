"""CelebA: faces, aligned and cropped to 178 x 218.

Input: JPEG images. Class: 0 dark hair, 1 blond hair (Blond_Hair). Attribute: 0 female, 1 male (Male). Source: Liu et
al., "Deep learning face attributes in the wild", https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html; MD5 of
img_align_celeba.zip 00d2c5bc6d35e252742224ab0c1e8fcb, of list_attr_celeba.txt 75e246fa4810816ffd6ee81facbd244c, of
list_eval_partition.txt d32c9cbf5e040fd4025c592c306e6668. License: the authors' own, non-commercial research only.
"""

from pathlib import Path
from typing import Literal

import pandas as pd

from hsfm.data.labels import BINARY, decode, read_text, require_files
from hsfm.data.sources._published import GROUP_DRO, PublishedFiles
from hsfm.data.table import Listing

CLASS_NAMES = ("dark", "blond")
ATTRIBUTE_NAMES = ("female", "male")

_COLUMNS = {"path": "image_id", "y": "Blond_Hair", "attribute": "Male", "split": "partition"}
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
    Raises ValueError naming file, row and value where a table is missing or holds another code than the published
    ones, where one of two tables lacks an image, or where listed images are not there.
    """
    folder = Path(settings.folder)
    source, rows = _read_labels(folder)
    places = ("img_align_celeba/img_align_celeba/", "img_align_celeba/")
    prefix = next((place for place in places if (folder / place).is_dir()), "")
    rows = rows.assign(
        image_id=rows["path"].str.replace(r"^.*/", "", regex=True),
        path=rows["path"].where(rows["path"].str.contains("/", regex=False), prefix + rows["path"]),
    ).sort_values("image_id", ignore_index=True)
    require_files(folder, rows["path"], source, _ADVICE)
    return Listing(rows, CLASS_NAMES, ATTRIBUTE_NAMES)


def _read_labels(folder: Path) -> tuple[str | Path, pd.DataFrame]:
    """The tables that list the images; path as listed there, y, attribute and split."""
    for suffix in (".txt", ".csv"):
        attributes, partition = (folder / f"{name}{suffix}" for name in ("list_attr_celeba", "list_eval_partition"))
        if attributes.is_file() and partition.is_file():
            source = f"{attributes}, {partition.name}"
            try:
                rows = _read_pair(attributes, partition)
            except (ValueError, KeyError) as error:
                raise ValueError(f"{source}: not readable tables ({error})") from error
            return source, decode(rows, source, _COLUMNS, {"-1": 0, "1": 1})
    table = folder / "metadata.csv"
    if not table.is_file():
        raise ValueError(f"{folder}: holds no whole set of CelebA's tables. {_ADVICE}")
    return table, decode(read_text(table, GROUP_DRO), table, GROUP_DRO, BINARY)


def _read_pair(attributes: Path, partition: Path) -> pd.DataFrame:
    """Path, y, attribute and split as text, null where one of the two tables lacks an image."""
    if attributes.suffix == ".txt":
        # the number of images; the 40 names; then an image, which has no name and becomes the index, and 40 numbers
        labels = pd.read_csv(attributes, sep=r"\s+", skiprows=1, dtype=str)
        splits = pd.read_csv(partition, sep=r"\s+", names=["image_id", "partition"], index_col=0, dtype=str)
    else:
        labels, splits = (pd.read_csv(path, index_col="image_id", dtype=str) for path in (attributes, partition))
    both = labels[[_COLUMNS["y"], _COLUMNS["attribute"]]].join(splits[_COLUMNS["split"]], how="outer")
    return both.rename_axis("path").reset_index().set_axis(["path", "y", "attribute", "split"], axis=1)
