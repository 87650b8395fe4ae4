"""Your own images: a folder, and a table with one row per image.

Input: image files of any size. Class, attribute, split: columns of the table, a .csv or .parquet file, of which you say
the names; Waterbirds' metadata.csv, SubpopBench's (id, filename, split, y, a) and most tables of the field are of this
form. Source and license: yours.
"""

from typing import Annotated, Literal

import pandas as pd
from pydantic import Field

from hsfm.core.settings import FrozenSettings
from hsfm.core.text import few
from hsfm.data import labels
from hsfm.data.cells import combine
from hsfm.data.sources._published import Folder, OnBadImage
from hsfm.data.table import Listing

# a path from the root, with a backslash, or with a part that is empty, . or ..
_NOT_PLAIN = r"\\|(?:^|/)\.{0,2}(?:/|$)"


class Columns(FrozenSettings):
    """Names of a table's columns."""

    path: str = Field(description="The image file, relative to folder.")
    y: str = Field(description="The class, a name or a number.")
    split: str = Field(description="0, 1, 2 or train, val, test.")
    attribute: str | None = Field(
        None, description="The spurious attribute, a name or a number, empty where unknown; null if there is none."
    )
    attributes: Annotated[tuple[str, ...], Field(min_length=2)] | None = Field(
        None,
        description="Several attributes in place of one: groups are then of a class and one value of each "
        "(docs/how-to/several-attributes.md).",
    )
    id: str | None = Field(None, description="A name for each image; null takes the path.")


class Settings(FrozenSettings):
    """Your own images, listed in a table."""

    source: Literal["metadata"]
    folder: Folder
    metadata: Annotated[str, Field(min_length=1)] = Field(
        description="A csv or Parquet file with one row per image, not relative to folder."
    )
    columns: Columns = Field(description="What its columns are called.")
    on_bad_image: OnBadImage = "stop"


def read(settings: Settings) -> Listing:
    """List the images of a table, in its order.

    Cells lose the blanks around them, and their Unicode form is NFC. Classes and attributes are names or numbers, any
    number of them, numbered in sorted order: numerically if all are numbers, else alphabetically (by code point, so B
    before a). An attribute that is empty, nan, or -1 beside others than 1 is unknown; without a column for it, it is
    unknown everywhere. Splits are 0, 1, 2 or train, val (valid, validation), test, in any case. Paths are relative,
    with / and without . or .. in them (a leading ./ is dropped), so that a file has one name and images can move
    together with their table.

    Raises ValueError naming table, column, row and value where a column is missing, a path, class, split or id is
    empty, a path is not plain, a split unknown, a file or id listed twice; where most classes or attributes are those
    of one image, or measurements; or where images are not there.
    """
    metadata, used = settings.metadata, settings.columns.model_dump(exclude_none=True, exclude={"attributes"})
    several = settings.columns.attributes or ()
    if several and "attribute" in used:
        raise ValueError("columns: attribute and attributes; one of them is allowed")
    if twice := [name for name in several if several.count(name) > 1]:
        raise ValueError(f"columns: attributes holds {twice[0]!r} twice")
    used |= {f"attribute {name}": name for name in several}
    text = labels.read_text(metadata, used)
    what = {key: f"{metadata}: column {name!r}" for key, name in used.items()}
    text["path"] = text["path"].str.removeprefix("./")
    for key in used:
        if not key.startswith("attribute"):
            labels.require_filled(text[key], what[key])
        if key in ("path", "id"):
            labels.require_unique(text[key], what[key])
    allowed = "paths relative to the images' folder, with / and without . or .. in them"
    labels.refuse(text["path"].str.contains(_NOT_PLAIN), text["path"], what["path"], allowed)
    text["y"], class_names = labels.number(text["y"], what["y"])
    if len(class_names) < 2:
        raise ValueError(f"{metadata}: holds {len(class_names)} class ({few(class_names)}), expected at least 2")
    numbered = {
        key: labels.number(labels.known(text[key], what[key]), what[key]) for key in used if key.startswith("attribute")
    }
    cells = {}
    if several:
        columns = {name: numbered[f"attribute {name}"] for name in several}
        text["attribute"], attribute_names, cells = combine(columns)
    elif numbered:
        text["attribute"], attribute_names = numbered["attribute"]
    else:
        text["attribute"], attribute_names = pd.Series(pd.NA, text.index, dtype="Int32"), ()
    text["split"] = labels.look_up(text["split"], labels.SPLIT_NAMES, what["split"])
    text["image_id"] = text["id" if "id" in used else "path"]
    advice = "Paths are relative to that folder."
    text["path"] = labels.require_files(settings.folder, text["path"], metadata, advice)
    return Listing(text, class_names, attribute_names, cells=cells)
