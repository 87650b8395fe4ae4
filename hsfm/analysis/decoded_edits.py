"""Edits decoded to pictures, before and after: their table, and what a figure shows of it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Float
from torch import Tensor

from hsfm.core.files import encode
from hsfm.data.table import ImageTable, group_name
from hsfm.methods.ddb.generated import as_png, read_png

SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("image_id", pa.string()),
        ("y", pa.int32()),
        ("attribute", pa.int32()),
        ("length", pa.float64()),
        ("picture_before", pa.binary()),  # PNG
        ("picture_after", pa.binary()),
        ("probabilities_before", pa.list_(pa.float64())),  # of the attributes' prompts, under CLIP
        ("probabilities_after", pa.list_(pa.float64())),
        ("attribute_before", pa.int32()),  # the most probable
        ("attribute_after", pa.int32()),
        ("moved", pa.bool_()),  # whether these differ
    ]
)
TIMES = ("before", "after")


def as_table(
    edits: pd.DataFrame,
    pictures: Mapping[str, Sequence[np.ndarray]],
    probabilities: Mapping[str, Float[Tensor, "n k"]],
    metadata: Mapping[str, Any],
) -> pa.Table:
    """A row of SCHEMA per edit. pictures, probabilities: by time, before and after."""
    records = []
    for number, edit in enumerate(edits.itertuples()):
        found = {when: probabilities[when][number] for when in TIMES}
        records.append(
            {
                "seed": edit.seed,
                "image_id": edit.image_id,
                "y": edit.y,
                "attribute": None if pd.isna(edit.attribute) else edit.attribute,
                "length": edit.length,
                **{f"picture_{when}": as_png(pictures[when][number]) for when in TIMES},
                **{f"probabilities_{when}": value.tolist() for when, value in found.items()},
                **{f"attribute_{when}": int(value.argmax()) for when, value in found.items()},
                "moved": bool(found["before"].argmax() != found["after"].argmax()),
            }
        )
    return pa.Table.from_pylist(records, schema=SCHEMA).replace_schema_metadata(encode(metadata, SCHEMA))


def decoded_pictures(
    table: pa.Table, names: ImageTable, originals: Callable[[Sequence[str]], list[np.ndarray]]
) -> list[dict[str, Any]]:
    """A row per edit: name, original, moved; before and after, each a picture and what CLIP takes it for."""
    rows = []
    for row in table.to_pylist():
        shown = {
            when: (
                read_png(row[f"picture_{when}"]),
                f"{names.attribute_names[row[f'attribute_{when}']]}, {100 * max(row[f'probabilities_{when}']):.0f} %",
            )
            for when in TIMES
        }
        name, original = group_name(names, row["y"], row["attribute"], ",\n"), originals([row["image_id"]])[0]
        rows.append({"name": name, "original": original, **shown, "moved": row["moved"]})
    return rows
