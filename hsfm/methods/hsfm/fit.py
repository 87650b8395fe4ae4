"""HSFM's heads of all seeds, by the contract of methods."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hsfm.core.text import kept_epochs
from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.hard_set import HardSet
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.heads.tuning import Choice, choose
from hsfm.methods.hsfm.outer_loop import Settings
from hsfm.methods.hsfm.support import Support, support_table
from hsfm.methods.hsfm.train import HalvesTraining
from hsfm.methods.hsfm.train import train as meta_train


def tuned(train: Embeddings, val: Embeddings, erm: Head, settings: Settings, scorer: Scorer) -> Choice:
    """The choice of `settings.tune`; as `hsfm.heads.tuning.choose`."""
    return choose(
        train, val, settings=settings, scorer=scorer, called="HSFM",
        start=lambda *batch: HalvesTraining(train, val, erm, *batch).advance,
    )  # fmt: skip


def fit(
    train: Embeddings, val: Embeddings, erm: Head,
    *, settings: Settings, seeds: Sequence[int], scorer: Scorer, hard_set: HardSet,
) -> Fit:  # fmt: skip
    """HSFM's heads `[s c d]`; errors as in `hsfm.heads.tuning.choose` and `hsfm.methods.hsfm.train.train`.

    With `settings.tune` the settings and the epoch are chosen on held-out halves of val, once for all seeds, and the
    heads are then trained on all of val. hard_set: of val under `erm`, the outer set of the first epoch unless
    another is asked for; its `per_class` is K_hard where nothing is tuned.
    Tables: history (per seed and epoch, see `train`), support (its rows before and after the edits), tried (a row per
    point of the grid; empty where nothing is tuned). Arrays: hard_rows `[s e m]`, the rows of val that the outer loss
    of each epoch was over.
    """
    choice = None
    if settings.tune is not None:
        choice = tuned(train, val, erm, settings, scorer)
        settings = choice.settings
        hard_set = choice.outer_set(hard_set)
    result = meta_train(
        train, val, erm, settings,
        seeds=seeds, hard_per_class=choice.hard_per_class if choice else hard_set.per_class, scorer=scorer,
        first_hard_set=hard_set, choice=choice,
    )  # fmt: skip
    rows = result.support_rows.flatten()
    support = Support(
        seed=tuple(np.repeat(result.seeds, result.support_rows.shape[1]).tolist()),
        image_id=tuple(train.image_id[row] for row in rows.tolist()),
        y=train.y.cpu()[rows],
        before=train.features.cpu()[rows],
        after=result.support_after.flatten(0, 1),
        checkpoint_sha256=train.checkpoint_sha256,
    )
    found = {"kept_epoch": result.kept_epoch.tolist(), "moved": result.moved.tolist(), "engine": result.engine}
    chosen_by, remarks, summary = settings.epoch_in_words(scorer), result.remarks, kept_epochs(result.history)
    if choice is not None:
        taught = scorer(result.head.to(val.y.device).logits(val.features)).tolist()
        found |= choice.found(taught)
        chosen_by, remarks = choice.in_words(scorer), choice.remarks(taught, scorer, result.remarks)
        summary = choice.remark(taught, scorer)
        choice.warn("HSFM", taught)
    return Fit(
        head=result.head,
        seeds=result.seeds,
        chosen_by=chosen_by,
        summary=summary,
        remarks=remarks,
        settings={"hard_per_class": hard_set.per_class, **result.outer_set, **found},
        tables={
            "history": result.history,
            "support": support_table(support),
            "tried": pd.DataFrame() if choice is None else choice.table,
        },
        arrays={"hard_rows": result.hard_rows.numpy()},
        held_out=None if choice is None else choice.held_out.classes,
    )
