"""Fields that the settings of several dataset sources share."""

from typing import Annotated, Literal

from pydantic import Field

Folder = Annotated[
    str,
    Field(
        min_length=1,
        description="Where the data lie, or are downloaded to; relative to where snakemake runs.",
    ),
]
AllowOtherCounts = Annotated[
    bool, Field(description="Accept other numbers of images per split and group than were published.")
]
OnBadImage = Annotated[
    Literal["stop", "skip"],
    Field(
        description="An unreadable image stops the workflow with a list of them all, or is left out and listed in "
        "unreadable_images.csv. Changing it opens all images again, and what follows reruns."
    ),
]
