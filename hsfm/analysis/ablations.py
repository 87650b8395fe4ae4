"""Ablations of HSFM, one part at a time."""

import logging
from collections.abc import Mapping, Sequence

import pandas as pd

from hsfm.evaluation.scores import score_splits
from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.heads.supervision import labels_used, scorer_of
from hsfm.methods.hsfm.fit import chosen_by
from hsfm.methods.hsfm.outer_loop import ABLATIONS, Settings
from hsfm.methods.hsfm.train import MetaResult
from hsfm.methods.hsfm.train import train as meta_train

log = logging.getLogger(__name__)

# hsfm/report/study_tables.py has each in words
VARIANTS = {"hsfm": {}, **ABLATIONS}


def fit_variants(
    train: Embeddings, val: Embeddings, head: Head, settings: Settings, *, seeds: Sequence[int], hard_per_class: int
) -> tuple[dict[str, MetaResult], Scorer]:
    """HSFM under every one of VARIANTS that the settings are not already, by name; and the scorer of all."""
    scorer, results = scorer_of(settings, val), {}
    for name, changes in VARIANTS.items():
        if changes and all(getattr(settings, key) == value for key, value in changes.items()):
            continue
        log.info("variant %s", name)
        changed = Settings(**{**dict(settings), **changes})
        results[name] = meta_train(
            train, val, head, changed, seeds=seeds, hard_per_class=hard_per_class, scorer=scorer
        )  # fmt: skip
    return results, scorer


def score_variants(
    results: Mapping[str, MetaResult], splits: Sequence[Embeddings], settings: Settings, scorer: Scorer
) -> pd.DataFrame:
    """The scores of every variant, its name as the method; but for the run. scorer: which picked the epochs."""
    frames = []
    for name, result in results.items():
        frame = score_splits(result.head, list(splits), seeds=result.seeds).assign(method=name)
        frame["remark"] = frame["seed"].map(dict(zip(result.seeds, result.remarks, strict=True)))
        frames.append(frame)
    used = {"group_labels": labels_used(settings, scorer), "chosen_by": chosen_by(settings, scorer)}
    return pd.concat(frames, ignore_index=True).assign(**used)
