"""Waterbirds: birds of CUB-200-2011 pasted onto scenes of Places.

Input: JPEG images of many sizes. Class: 0 landbird, 1 waterbird. Attribute, the scene: 0 land, 1 water; it matches the
bird in 95 % of train and half of val and test. Source: Sagawa et al., "Distributionally robust neural networks"
(group DRO), https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz (no checksum published).
License: unknown; CUB asks for non-commercial research use, Places has terms of its own.
"""

from pathlib import Path
from typing import Literal

import pandas as pd

from hsfm.data.fields import PublishedFiles
from hsfm.data.labels import BINARY, SPLIT_CODES, look_up, read_text, require_files, require_filled, require_unique
from hsfm.data.table import Listing

CLASS_NAMES = ("landbird", "waterbird")
ATTRIBUTE_NAMES = ("land", "water")

_ARCHIVE = "waterbird_complete95_forest2water2"
_ADVICE = (
    f"Unpack https://nlp.stanford.edu/data/dro/{_ARCHIVE}.tar.gz and give the folder that holds {_ARCHIVE}, or "
    "that folder itself: it holds metadata.csv and 200 folders of images."
)


class Settings(PublishedFiles):
    """Waterbirds in the published layout."""

    source: Literal["waterbirds"]


def read(settings: Settings) -> Listing:
    """List the unpacked archive, or the folder it was unpacked in, in the order of its metadata.csv.

    The id is the file name as that table has it. Raises ValueError naming file, row and value where the table is
    missing, lacks a column, holds another code than the published ones or a file twice, or lists images that are not
    there.
    """
    folder = settings.folder
    prefix = "" if Path(folder, "metadata.csv").is_file() else f"{_ARCHIVE}/"
    source = Path(folder, prefix, "metadata.csv")
    if not source.is_file():
        raise ValueError(f"{Path(folder, 'metadata.csv')}: no such file. {_ADVICE}")
    text = read_text(source, {"path": "img_filename", "y": "y", "attribute": "place", "split": "split"})
    require_filled(text["path"], f"{source}: column 'img_filename'")
    rows = pd.DataFrame(
        {
            "image_id": text["path"],
            "path": prefix + text["path"],
            "y": look_up(text["y"], BINARY, f"{source}: column 'y'"),
            "attribute": look_up(text["attribute"], BINARY, f"{source}: column 'place'"),
            "split": look_up(text["split"], SPLIT_CODES, f"{source}: column 'split'"),
        }
    ).astype({"y": "int32", "attribute": "Int32"})
    require_unique(rows["path"], f"{source}: column 'img_filename'")
    require_files(folder, rows["path"], source, _ADVICE)
    return Listing(rows, CLASS_NAMES, ATTRIBUTE_NAMES)
