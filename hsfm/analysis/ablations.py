"""Ablations of HSFM, one part at a time."""

import logging
from collections.abc import Sequence

import pandas as pd
import torch

from hsfm.evaluation.scores import score_splits
from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head
from hsfm.heads.supervision import labels_used, scorer_of
from hsfm.methods.hsfm.fit import tuned
from hsfm.methods.hsfm.outer_loop import ABLATIONS, Settings
from hsfm.methods.hsfm.train import train as meta_train

log = logging.getLogger(__name__)

# hsfm/report/study_tables.py has each in words
VARIANTS = {"hsfm": {}, **ABLATIONS}


def ablate(
    train: Embeddings,
    val: Embeddings,
    test: Embeddings,
    head: Head,
    settings: Settings,
    *,
    seeds: Sequence[int],
    hard_per_class: int,
    device: torch.device,
) -> pd.DataFrame:
    """Scores of every one of VARIANTS that the settings are not already, its name as the method; without the run.

    Where HSFM tunes itself, all variants run under the settings, K_hard and epoch that it chooses whole.
    """
    tr, pool, start = train.to(device), val.to(device), head.to(device)
    scorer, frames = scorer_of(settings, tr, pool), []
    chosen_by, choice = settings.epoch_in_words(scorer), None
    if settings.tune is not None:
        choice = tuned(tr, pool.without_attributes(), start, settings, scorer)
        settings, hard_per_class, chosen_by = choice.settings, choice.hard_per_class, choice.in_words(scorer)
    for name, changes in VARIANTS.items():
        if changes and all(getattr(settings, key) == value for key, value in changes.items()):
            continue
        log.info("variant %s", name)
        changed = Settings(**{**dict(settings), **changes})
        result = meta_train(
            tr, pool, start, changed, seeds=seeds, hard_per_class=hard_per_class, scorer=scorer, choice=choice
        )
        frame = score_splits(result.head, [train, val, test], seeds=result.seeds).assign(method=name)
        remarks = dict(zip(result.seeds, result.remarks, strict=True))
        frames.append(frame.assign(remark=frame["seed"].map(remarks)))
    used = {"group_labels": labels_used(settings, scorer), "chosen_by": chosen_by}
    return pd.concat(frames, ignore_index=True).assign(**used)
