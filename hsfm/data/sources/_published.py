"""Settings and label codes that several sources share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from pydantic import Field

from hsfm.core.settings import FrozenSettings
from hsfm.data.labels import SPLIT_NAMES, look_up, require_filled

# metadata.csv of Waterbirds, which DFR's authors took over for CelebA
GROUP_DRO = {"path": "img_filename", "y": "y", "attribute": "place", "split": "split"}

Folder = Annotated[
    str,
    Field(min_length=1, description="Where the data lie, or are downloaded to; relative to where snakemake runs."),
]
OnBadImage = Annotated[
    Literal["stop", "skip"],
    Field(
        description="An unreadable image stops the workflow with a list of them all, or is left out and listed in "
        "unreadable_images.csv. Changing it opens all images again, and what follows reruns."
    ),
]


class Published(FrozenSettings):
    """A published dataset; each source narrows `source` to its name."""

    source: str
    folder: Folder
    allow_other_counts: bool = Field(
        False, description="Accept other numbers of images per split and group than were published."
    )


class PublishedFiles(Published):
    """A published dataset of images in files."""

    on_bad_image: OnBadImage = "stop"


def decode(text: pd.DataFrame, source: Path, columns: Mapping[str, str], codes: Mapping[str, int]) -> pd.DataFrame:
    """Numbers for the texts in y and attribute, by `codes`, and names of the splits.

    columns: what the table `source` calls those of `text`. Raises ValueError naming table, column, row and value.
    """
    require_filled(text["path"], f"{source}: column {columns['path']!r}")
    for key, meaning in {"y": codes, "attribute": codes, "split": SPLIT_NAMES}.items():
        if key in text:
            text[key] = look_up(text[key], meaning, f"{source}: column {columns[key]!r}")
    return text
