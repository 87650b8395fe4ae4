"""One method under every rule of selection: what it costs to pick its head without group labels."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import ModuleType

import pandas as pd
import torch

from hsfm.evaluation.scores import score_heads
from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit_inputs import FitInputs
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.scorer import RULES
from hsfm.heads.supervision import fit_supervised, remarked

SHOWN = tuple(rule for rule in RULES if rule != "worst_value")  # which is worst_group, where there is one attribute


def select_heads(
    method: ModuleType,
    inputs: FitInputs,
    test: Embeddings,
    *,
    row: str,
    settings: MethodSettings,
    seeds: Sequence[int],
    run: int,
    device: torch.device,
) -> pd.DataFrame:
    """Scores on val and test of a method's heads by each rule: the columns of `hsfm.evaluation.scores.BY_RULE`.

    row: the name for the column method. Without the attribute of every row of val there is no worst_group. A rule of
    the method's own, which is not in RULES, stays, and so do its heads. Raises NotApplicable as `fit_supervised`.
    """
    train, val, erm = (part.to(device) for part in (inputs.train, inputs.val, inputs.erm))
    known = bool((val.attribute >= 0).all())
    frames = []
    for rule, changed in under_rules(settings, known):
        fit, labels = fit_supervised(method, train, val, erm, settings=changed, seeds=seeds, **inputs.needs)
        described = {"class_names": val.class_names, "checkpoint_sha256": inputs.checkpoint_sha256}
        saved = remarked(fit, inputs).saved(method=row, group_labels=labels, **described)
        saved.check_fits(test, f"{test.dataset} test")
        frames.append(score_heads(replace(saved, held_out=None), [inputs.val, test], run).assign(rule=rule))
    return pd.concat(frames, ignore_index=True)


def under_rules(settings: MethodSettings, known: bool = True) -> Iterator[tuple[str, MethodSettings]]:
    """Rules and the settings with each. known: whether the groups of validation are; else there is no worst_group."""
    own = settings.select_by not in (None, *RULES)
    for rule in (rule for rule in SHOWN if known or rule != "worst_group"):
        yield rule, settings if own else type(settings)(**{**dict(settings), "select_by": rule})
