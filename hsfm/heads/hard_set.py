"""The hard set: per class, the pool images on which a head's loss is highest."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field, PositiveInt
from torch import Tensor
from torch.nn.functional import cross_entropy

from hsfm.core.files import read_parquet, require, write_parquet
from hsfm.core.settings import FrozenSettings
from hsfm.features.embeddings import Embeddings
from hsfm.heads.draw import PerClass, sizes_of
from hsfm.heads.head import Head

SCHEMA = pa.schema(
    {"image_id": "string", "y": "int32", "loss": "float32", "rank": "int32", "chosen": "bool", "group": "int32"}
)


class HardSetSettings(FrozenSettings):
    """Size of the hard set."""

    hard_per_class: PositiveInt = Field(
        128,
        description="K_hard: hard samples per class of the pool, all of a smaller class.",
        json_schema_extra={"sweep": [32, 64, 128, 256]},
    )


@dataclass(frozen=True)
class HardSet:
    image_id: tuple[str, ...]  # every image of the pool, in its order
    y: Int[Tensor, " n"]
    loss: Float[Tensor, " n"]  # cross-entropy, natural log
    rank: Int[Tensor, " n"]  # within the class, 1 for the highest loss
    chosen: Bool[Tensor, " n"]

    @property
    def per_class(self) -> int:
        """K_hard: the largest number of chosen images of a class."""
        return int(torch.bincount(self.y[self.chosen].long()).max())


def rank_in_class(loss: Float[Tensor, " n"], y: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """1 for the highest loss of each class, 2 for the next; the earlier row comes first in a tie."""
    rank = pd.Series(loss.numpy()).groupby(y.numpy()).rank(method="first", ascending=False)
    return torch.from_numpy(rank.to_numpy(np.int64))


def limits(per_class: PerClass, y: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """K_hard of each row's class."""
    return torch.tensor(sizes_of(per_class, int(y.max()) + 1))[y.long().cpu()]


def hardest(
    loss: Float[Tensor, "r n"], class_rows: Sequence[Int[Tensor, " _"]], per_class: PerClass
) -> Int[Tensor, "r m"]:
    """Rows of the `per_class` highest losses of each class, or all of a smaller class; classes ascend.

    class_rows: the rows of each class, ascending. The choice is that of `rank_in_class`, for r lists of losses at once.
    """
    sizes = sizes_of(per_class, len(class_rows))
    orders = (loss[:, rows].argsort(dim=1, descending=True, stable=True) for rows in class_rows)
    chosen = (rows[order[:, :size]] for rows, order, size in zip(class_rows, orders, sizes, strict=True))
    return torch.cat(list(chosen), dim=1)


def build(head: Head, pool: Embeddings, *, per_class: PerClass) -> HardSet:
    loss = cross_entropy(head.logits(pool.features), pool.y, reduction="none")
    rank = rank_in_class(loss, pool.y)
    return HardSet(image_id=pool.image_id, y=pool.y, loss=loss, rank=rank, chosen=rank <= limits(per_class, pool.y))


def write_hard_set(path: str | Path, hard_set: HardSet, pool: Embeddings) -> None:
    """Write the hard set; `group` is written for diagnosis only and `read_need` leaves it out."""
    group = pool.group.numpy()
    columns = {name: getattr(hard_set, name).numpy() for name in ("y", "loss", "rank", "chosen")}
    columns |= {"image_id": hard_set.image_id, "group": pa.array(group, mask=group < 0)}
    described = ("dataset", "class_names", "attribute_names", "checkpoint_sha256")
    metadata = {"pool": pool.split, **{key: getattr(pool, key) for key in described}}
    write_parquet(path, pa.table(columns, SCHEMA), metadata)


def read_need(path: str | Path, pool: Embeddings, settings: Mapping[str, Any]) -> HardSet:
    """Read the hard set of `pool`, also for a method whose NEEDS names it. settings: with hard_per_class, a PerClass.

    Raises ValueError where it was built on another checkpoint or other images.
    """
    # nothing that trains may read the group
    table, metadata = read_parquet(path, SCHEMA.remove(SCHEMA.get_field_index("group")))
    require(metadata, ("checkpoint_sha256",), path)
    if metadata["checkpoint_sha256"] != pool.checkpoint_sha256:
        built = metadata["checkpoint_sha256"]
        raise ValueError(f"{path}: built on checkpoint {built}, but the embeddings are of {pool.checkpoint_sha256}")
    if tuple(table["image_id"].to_pylist()) != pool.image_id:
        raise ValueError(f"{path}: lists {len(table)} images that are not the {len(pool.image_id)} of the pool")
    y, loss, rank = (torch.tensor(table[name].to_numpy()) for name in ("y", "loss", "rank"))
    return HardSet(pool.image_id, y, loss, rank, rank <= limits(settings["hard_per_class"], y))
