"""Supervision enforced: a method is fitted on the group labels that its settings allow, and on no others."""

from collections.abc import Sequence
from types import ModuleType
from typing import Any

from hsfm.features.embeddings import Embeddings, NotApplicable
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head
from hsfm.heads.inferred_groups.attribute import infer_attribute
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.scorer import RULES, Scorer


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
    fit = method.fit(*hidden(settings, train, val), erm, settings=settings, seeds=seeds, scorer=scorer, **needs)
    return fit, labels_used(settings, scorer)


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


def labels_used(settings: MethodSettings, scorer: Scorer) -> str:
    """Use of group labels: `none`, `selection` by those of val, `training` on those of val, or on `train` or `both`."""
    if settings.groups != "none":
        return "training" if settings.groups == "val" else settings.groups
    return "selection" if scorer.asked and scorer.rule == "worst_group" else "none"
