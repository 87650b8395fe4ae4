"""HSFM's support, before and after its edits, and its Parquet file."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hsfm.core.files import encode, read_parquet, require

SCHEMA = pa.schema(
    [
        ("seed", pa.int64()),
        ("image_id", pa.string()),
        ("y", pa.int32()),
        ("before", pa.list_(pa.float32(), -1)),  # fixed_size_list of any length
        ("after", pa.list_(pa.float32(), -1)),
    ]
)


@dataclass(frozen=True)
class Support:
    """Support rows of one or several seeds, one after the other."""

    seed: tuple[int, ...]  # of each row
    image_id: tuple[str, ...]
    y: Int[Tensor, " n"]
    before: Float[Tensor, "n d"]
    after: Float[Tensor, "n d"]
    checkpoint_sha256: str = ""  # of the network whose features they are

    def of(self, seed: int) -> "Support":
        """The rows of one seed."""
        rows = [number for number, one in enumerate(self.seed) if one == seed]
        tensors = {name: getattr(self, name)[rows] for name in ("y", "before", "after")}
        texts = {name: tuple(getattr(self, name)[row] for row in rows) for name in ("seed", "image_id")}
        return replace(self, **texts, **tensors)


def support_table(support: Support) -> pa.Table:
    """All rows, features as `fixed_size_list[d]`, with metadata."""
    columns = {"seed": pa.array(support.seed, pa.int64()), "image_id": pa.array(support.image_id, pa.string())}
    columns["y"] = pa.array(support.y.numpy(), pa.int32())
    for name in ("before", "after"):
        features = getattr(support, name)
        columns[name] = pa.FixedSizeListArray.from_arrays(features.flatten().numpy(), features.shape[1])
    table = pa.table(columns)
    return table.replace_schema_metadata(encode({"checkpoint_sha256": support.checkpoint_sha256}, table.schema))


def read_support(path: str | Path) -> Support:
    """Read `support_table`'s file. Raises ValueError naming the file and what is wrong."""
    table, metadata = read_parquet(path, SCHEMA)
    require(metadata, ["checkpoint_sha256"], path)
    before, after = (
        torch.from_numpy(table[name].combine_chunks().flatten().to_numpy().reshape(len(table), -1).copy())
        for name in ("before", "after")
    )
    return Support(
        seed=tuple(table["seed"].to_pylist()),
        image_id=tuple(table["image_id"].to_pylist()),
        y=torch.tensor(table["y"].to_numpy().astype(np.int64)),
        before=before,
        after=after,
        checkpoint_sha256=metadata["checkpoint_sha256"],
    )
