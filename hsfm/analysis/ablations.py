"""Ablations of HSFM, one part at a time."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from hsfm.evaluation.scores import score_splits
from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head, picked_by
from hsfm.methods.hsfm.train import SELECT_BY, MetaResult
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


def score_variants(results: Mapping[str, MetaResult], splits: Sequence[Embeddings], rule: str) -> pd.DataFrame:
    """The scores of every variant, its name as the method; but for the run. rule: which picked the epochs."""
    frames = []
    for name, result in results.items():
        frame = score_splits(result.head, list(splits), seeds=result.seeds).assign(method=name)
        frame["remark"] = frame["seed"].map(dict(zip(result.seeds, result.remarks, strict=True)))
        frames.append(frame)
    return pd.concat(frames, ignore_index=True).assign(**picked_by(rule, SELECT_BY))
