"""Settings and column names that several sources share."""

from typing import Annotated, Literal

from pydantic import Field

from hsfm.core.settings import FrozenSettings

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
