"""Waterbirds: birds of CUB-200-2011 pasted onto scenes of Places.

Input: JPEG images of many sizes. Class: 0 landbird, 1 waterbird. Attribute, the scene: 0 land, 1 water; it matches the
bird in 95 % of train and half of val and test. Source: Sagawa et al., "Distributionally robust neural networks"
(group DRO), https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz (no checksum published).
License: unknown; CUB asks for non-commercial research use, Places has terms of its own.
"""

from pathlib import Path
from typing import Literal

from hsfm.data.labels import BINARY, decode, read_text, require_files
from hsfm.data.sources._published import GROUP_DRO, PublishedFiles
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
    missing, lacks a column, holds another code than the published ones, or lists images that are not there.
    """
    folder = Path(settings.folder)
    prefix = "" if (folder / "metadata.csv").is_file() else f"{_ARCHIVE}/"
    source = folder / prefix / "metadata.csv"
    if not source.is_file():
        raise ValueError(f"{folder}: holds no metadata.csv. {_ADVICE}")
    rows = decode(read_text(source, GROUP_DRO), source, GROUP_DRO, BINARY)
    rows = rows.assign(image_id=rows["path"], path=prefix + rows["path"])
    require_files(folder, rows["path"], source, _ADVICE)
    return Listing(rows, CLASS_NAMES, ATTRIBUTE_NAMES)
