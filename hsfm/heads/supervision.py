"""Supervision enforced: a method is fitted on the group labels that its settings allow, and on no others."""

from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from hsfm.core.naming import naming
from hsfm.features.embeddings import Embeddings, NotApplicable
from hsfm.heads.fit import Fit
from hsfm.heads.fit_inputs import FitInputs
from hsfm.heads.head import Head, SavedHeads, stack
from hsfm.heads.inferred_groups.attribute import infer_attribute
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.scorer import OF_GROUPS, RULES, Scorer


def fit_supervised(
    method: ModuleType,
    train: Embeddings,
    val: Embeddings,
    erm: Head,
    *,
    settings: MethodSettings,
    seeds: Sequence[int],
    **needs: Any,
) -> tuple[Fit, str]:
    """A method's fit, and its use of group labels, as `labels_used` has it.

    method: a module of hsfm/methods. The scorer sees the attributes of val, the method those of `settings.groups`
    alone. needs: further inputs that the module's NEEDS names. A select_by of None is worst_group.
    Raises NotApplicable where the data lack what the method needs, and ValueError where they lack the scorer's groups.
    """
    scorer = scorer_of(settings, train, val)
    if settings.hinted:
        needs["label_of"] = Labeler(val, settings.hinted)
    with naming(f"{train.where}, {val.where}"):
        fit = method.fit(*hidden(settings, train, val), erm, settings=settings, seeds=seeds, scorer=scorer, **needs)
    return fit, labels_used(settings, scorer)


def fit_row(
    method: ModuleType,
    inputs: FitInputs,
    *,
    row: str,
    settings: MethodSettings,
    seeds: Sequence[int],
    device: torch.device,
) -> tuple[Fit, SavedHeads]:
    """A method's fit for one row of the tables, and its heads as they are saved.

    row: its name there. Where the data lack what the method needs there is no head, and the saved heads say why;
    ValueError as `fit_supervised`.
    """
    train, val, erm = (part.to(device) for part in (inputs.train, inputs.val, inputs.erm))
    try:
        fit, labels = fit_supervised(method, train, val, erm, settings=settings, seeds=seeds, **inputs.needs)
        left_out = ""
    except NotApplicable as error:  # the other rows stay, and the table says why this one is not there
        fit, labels, left_out = Fit(stack([erm])[:0], ()), "none", str(error)
    fit = remarked(fit, inputs)
    return fit, fit.saved(
        method=row,
        class_names=val.class_names,
        checkpoint_sha256=inputs.checkpoint_sha256,
        group_labels=labels,
        settings={**dict(sorted(settings.model_dump(mode="json").items())), **inputs.training, **fit.settings},
        left_out=left_out,
    )


def remarked(fit: Fit, inputs: FitInputs) -> Fit:
    """A fit with the remark on its network behind those on its heads."""
    if not inputs.remark:
        return fit
    own = fit.remarks or [""] * len(fit.seeds)
    return replace(fit, remarks=tuple("; ".join(filter(None, [remark, inputs.remark])) for remark in own))


def scorer_of(settings: MethodSettings, train: Embeddings, val: Embeddings) -> Scorer:
    """The scorer by the rule of the settings; where they go by a rule of the method's own, one that measures only.

    train is read by the rule inferred_group alone, for its features and classes.
    """
    rule = settings.select_by or "worst_group"
    if rule == "inferred_group":
        return Scorer(val, rule, infer_attribute(train, val, "select_by: inferred_group"))
    try:
        return Scorer(val, rule if rule in RULES else "average")
    except NotApplicable as error:  # which is the configuration's fault, not the method's
        raise ValueError(error) from error


def hidden(settings: MethodSettings, train: Embeddings, val: Embeddings) -> tuple[Embeddings, Embeddings]:
    return (
        train if settings.groups in ("train", "both") else train.without_attributes(),
        val if settings.groups in ("val", "both") else val.without_attributes(),
    )


class Labeler:
    """Attributes of rows of val that a method asks for, of at most so many of a class.

    Raises ValueError for more, and NotApplicable where an attribute is unknown.
    """

    def __init__(self, val: Embeddings, per_class: int):
        self._val, self._per_class, self._asked = val, per_class, torch.zeros(len(val.y), dtype=torch.bool)

    def __call__(self, rows: Int[np.ndarray, " k"]) -> Int[np.ndarray, " k"]:
        self._asked[rows] = True
        most = int(torch.bincount(self._val.y.cpu()[self._asked]).max())
        if most > self._per_class:
            raise ValueError(f"{most} group labels of a class were asked for; hints allows {self._per_class}")
        attribute = self._val.attribute.cpu().numpy()[rows]
        unknown = np.flatnonzero(attribute < 0)
        if len(unknown):
            name = self._val.image_id[int(rows[unknown[0]])]
            raise NotApplicable(f"hints asks for the attribute of image {name!r}, which is unknown")
        return attribute


def labels_used(settings: MethodSettings, scorer: Scorer) -> str:
    """Use of group labels: `none`, `selection` by those of val, or to train on: `hints` some of val, `training` all of
    val, `train`, `both`.
    """
    if settings.groups == "none" and settings.hinted:
        return "hints"
    if settings.groups != "none":
        return "training" if settings.groups == "val" else settings.groups
    return "selection" if scorer.asked and scorer.rule in OF_GROUPS else "none"
