"""HSFM with one part at a time taken away."""

from collections.abc import Mapping, Sequence
from typing import Any

from hsfm.embeddings import Embeddings
from hsfm.head import Head
from hsfm.meta import MetaResult
from hsfm.meta import train as fit_hsfm

# the settings that differ; hsfm/studies/report.py has each in words
VARIANTS: dict[str, dict[str, Any]] = {
    "hsfm": {},
    "fixed_support": {"support_steps": 0},
    "random_outer_set": {"outer_set": "random"},
    "hard_set_once": {"refresh": "never"},
    "first_order": {"gradient": "first_order"},
    "unbalanced_support": {"support_draw": "uniform"},
}


def fit_variants(
    train: Embeddings, val: Embeddings, head: Head, *, seeds: Sequence[int], settings: Mapping[str, Any]
) -> dict[str, MetaResult]:
    """HSFM under every one of VARIANTS, by name; settings are those of `hsfm.meta.train`."""
    return {
        name: fit_hsfm(train, val, head, seeds=seeds, **{**settings, **changes}) for name, changes in VARIANTS.items()
    }
