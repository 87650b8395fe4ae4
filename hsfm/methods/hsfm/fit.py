"""HSFM's heads of all seeds, by the contract of methods."""

from collections.abc import Sequence

import numpy as np

from hsfm.core.text import kept_epochs
from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.hard_set import HardSet
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.methods.hsfm.outer_loop import Settings
from hsfm.methods.hsfm.support import Support, support_table
from hsfm.methods.hsfm.train import train as meta_train


def fit(
    train: Embeddings, val: Embeddings, erm: Head,
    *, settings: Settings, seeds: Sequence[int], scorer: Scorer, hard_set: HardSet,
) -> Fit:  # fmt: skip
    """HSFM's heads `[s c d]`; errors as in `hsfm.methods.hsfm.train.train`.

    hard_set: of val under `erm`, the outer set of the first epoch unless another is asked for, whose `per_class` is
    K_hard.
    Tables: history (per seed and epoch, see `train`), support (its rows before and after the edits). Arrays: hard_rows
    `[s e m]`, the rows of val that the outer loss of each epoch was over.
    """
    result = meta_train(
        train, val, erm, settings,
        seeds=seeds, hard_per_class=hard_set.per_class, scorer=scorer, first_hard_set=hard_set,
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
    found = {"kept_epoch": result.kept_epoch.tolist(), "moved": result.moved.tolist()}
    return Fit(
        head=result.head,
        seeds=result.seeds,
        chosen_by=settings.epoch_in_words(scorer),
        summary=kept_epochs(result.history),
        remarks=result.remarks,
        settings={"hard_per_class": hard_set.per_class, **result.outer_set, **found},
        tables={"history": result.history, "support": support_table(support)},
        arrays={"hard_rows": result.hard_rows.numpy()},
    )
