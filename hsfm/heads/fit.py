"""Fit: the result of a method."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Int
from torch import Tensor

from hsfm.features.embeddings import NotApplicable as NotApplicable
from hsfm.heads.head import Head, SavedHeads


@dataclass(frozen=True)
class Fit:
    """Heads of one method on raw features, and what tables and analysis need to know about them."""

    head: Head  # weight [s c d], bias [s c]
    seeds: tuple[int, ...]  # one where nothing is drawn
    chosen_by: str = ""  # rule that picked the epoch or the strength of a penalty, in words, for the tables' notes
    summary: str = ""  # the stage's line on the terminal
    remarks: tuple[str, ...] = ()  # caveats about each seed's head; empty, or one text per seed
    settings: Mapping[str, object] = field(default_factory=dict)  # found by the method, beside the given ones
    tables: Mapping[str, pd.DataFrame | pa.Table] = field(default_factory=dict)  # by the names in the module's TABLES
    networks: tuple[Any, ...] = ()  # `Network`, one per seed with its head, where features are not the embeddings'
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)  # row ids and the like, for analysis
    held_out: Int[Tensor, "k n"] | None = None  # as SavedHeads has it

    def saved(self, **described: Any) -> SavedHeads:
        """The heads for their file. described: the fields of SavedHeads that a method does not know, and other ones."""
        known = {name: getattr(self, name) for name in ("head", "seeds", "chosen_by", "remarks", "held_out")}
        return SavedHeads(**{**known, **described})
