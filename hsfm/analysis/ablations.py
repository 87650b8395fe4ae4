"""HSFM with one part at a time taken away."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head
from hsfm.methods.hsfm.train import MetaResult
from hsfm.methods.hsfm.train import train as fit_hsfm

log = logging.getLogger(__name__)

# the settings that differ; hsfm/report/study_tables.py has each in words
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
    """HSFM under every one of VARIANTS that the settings, those of `train`, are not already; by name."""
    results = {}
    for name, changes in VARIANTS.items():
        if changes and all(settings.get(key) == value for key, value in changes.items()):
            continue
        log.info("variant %s", name)
        results[name] = fit_hsfm(train, val, head, seeds=seeds, **{**settings, **changes})
    return results
