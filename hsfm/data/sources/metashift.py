"""MetaShift's cats and dogs in the version of DISC: the held-out context, shelf, is new to both animals.

Input: JPEG images of many sizes. Class: 0 cat, 1 dog. Attribute, the context: 0 sofa and 1 bed (cats in train), 2 bench
and 3 bike (dogs in train), 4 shelf (val and test). Source: Wu et al., "Discover and cure" (DISC), its archive
metashifts.zip linked at https://github.com/Wuyxin/DISC; not SubpopBench's dataset of that name, which is indoor against
outdoor. The published split cannot be made again: the authors cut files in the order of `os.listdir`, and shuffle train
before they seed. License: unknown for this selection; MetaShift's images are Visual Genome's (CC BY 4.0).
"""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from hsfm.data.labels import names_in
from hsfm.data.sources._published import PublishedFiles
from hsfm.data.table import SPLITS, Listing

CLASS_NAMES = ("cat", "dog")
ATTRIBUTE_NAMES = ("sofa", "bed", "bench", "bike", "shelf")

_GROUPS = {  # class and attribute
    "train/cat/cat(sofa)": (0, 0),
    "train/cat/cat(bed)": (0, 1),
    "train/dog/dog(bench)": (1, 2),
    "train/dog/dog(bike)": (1, 3),
    "test/cat/cat(shelf)": (0, 4),
    "test/dog/dog(shelf)": (1, 4),
}
_TEST_SHARE = 0.85  # of the held-out images; the rest is val
_ADVICE = (
    "MetaShift's cats and dogs cannot be fetched without an account: take metashifts.zip, linked at "
    "https://github.com/Wuyxin/DISC, and give the folder MetaDatasetCatDog in it, which holds "
    "{train,test}/{cat,dog}/{animal}({context})/, such as train/cat/cat(sofa)/."
)


class Settings(PublishedFiles):
    """MetaShift in the published layout."""

    source: Literal["metashift"]


def read(settings: Settings) -> Listing:
    """List the six folders of the cat and dog task; the id is the path.

    Rows are sorted by split, then class, context in the order of ATTRIBUTE_NAMES, and name: the same on every machine,
    whereas the original took files in directory order. Other contexts in the archive, and hidden files, are left out.
    Raises ValueError naming the folders that are missing or empty.
    """
    from sklearn.model_selection import train_test_split  # reading a configuration does not pay for it

    folder = Path(settings.folder)
    found = {place: sorted(n for n in names_in(folder / place) if not n.startswith(".")) for place in _GROUPS}
    empty = [place for place, names in found.items() if not names]
    if empty:
        raise ValueError(f"{folder}: no images in {', '.join(empty)}. {_ADVICE}")
    listed = [(f"{place}/{name}", *_GROUPS[place]) for place, names in found.items() for name in names]
    rows = pd.DataFrame(listed, columns=["path", "y", "attribute"])
    n_train = int(rows["path"].str.startswith("train/").sum())  # they come first
    _, test = train_test_split(np.arange(n_train, len(rows)), test_size=_TEST_SHARE, random_state=0)
    rows = rows.assign(image_id=rows["path"], split=np.where(rows.index < n_train, "train", "val"))
    rows.loc[test, "split"] = "test"
    rows = rows.sort_values("split", key=lambda split: split.map(SPLITS.index), kind="stable", ignore_index=True)
    return Listing(rows, CLASS_NAMES, ATTRIBUTE_NAMES)
