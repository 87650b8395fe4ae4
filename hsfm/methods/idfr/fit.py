"""The contract of IDFR: DFR on inferred groups where these can be believed, AFR on validation where they cannot."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Annotated

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from hsfm.core.text import percent
from hsfm.features.embeddings import Embeddings, check_same_origin
from hsfm.heads.balanced_regression import BalancedSettings, fit_balanced
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head
from hsfm.heads.inferred_groups.attribute import FOLD_SEEDS, LEVEL, doubt, with_attribute
from hsfm.heads.inferred_groups.groups import Found, find_groups
from hsfm.heads.inferred_groups.hints import AskedBy, use_hints
from hsfm.heads.inferred_groups.infer import stratified_folds
from hsfm.heads.method_settings import Halves, Rule
from hsfm.heads.scorer import Scorer
from hsfm.methods.idfr.fallback import fit_afr

CALLED = "IDFR"
BALANCED = 1.3  # a class whose largest group is below this multiple of 1 / c has no minority worth balancing


class Settings(BalancedSettings):
    select_by: Rule | None = Field(
        "worst_class",
        description="Rule by which the fallbacks choose; the worst class reads no group label. On inferred groups C is "
        "chosen by the worst of these. null takes the configuration's.",
    )
    level: Annotated[float, Field(gt=0, lt=1)] = Field(
        LEVEL,
        description="Largest p of the test of two clouds at which inferred groups are used; a fifth of it is that of "
        "the guard against wrong labels.",
    )
    fold_seeds: PositiveInt = Field(
        FOLD_SEEDS, description="Divisions into folds that the gate is measured on; twice the median p counts."
    )
    hints: NonNegativeInt = Field(
        0, description="Group labels of validation that it asks for, per class, to confirm and correct inferred groups."
    )
    hints_by: AskedBy = Field(
        "sides",
        description="Images whose labels it asks for: as many on either side of the inferred attribute, a random "
        "sample of the class, or the uncertain ones.",
    )
    with_train: bool = Field(
        False, description="Whether the head learns from train, too; for backbones that were not trained on it."
    )
    gammas: Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)] = Field(
        (0, 4, 8), description="Of the fallback: how much more images that ERM fits badly count."
    )
    penalties: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = Field(
        (1, 0.1, 0.01, 0.001), description="Of the fallback: pull to ERM's head; every pair is tried."
    )

    @property
    def hinted(self) -> int:
        return self.hints

    @property
    def halves(self) -> Halves:
        return "none"  # where an inferred group cannot be halved it takes the fallback


def branch(found: Found, val: Embeddings, settings: Settings, confirmed: bool) -> tuple[str, str]:
    """Name of the head to fit, `dfr` or `afr`, or `balanced` where halves decide, and the reason."""
    if confirmed:  # by labels, which say more than both tests
        found = replace(found, p_gate=0.0, p_guard=0.0)
    why = doubt(found, val, settings.level)
    if why:
        return "afr", why
    sizes = np.bincount(val.y.numpy() * val.n_classes + found.val)
    if found.shares.max() < BALANCED / val.n_classes and sizes.min() >= 4:  # two in each half
        return "balanced", "the inferred groups are balanced"
    return "dfr", "the groups are inferred, and hints confirm them" if confirmed else "the groups are inferred"


def fit(
    train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer,
    label_of: Callable[[Int[np.ndarray, " k"]], Int[np.ndarray, " k"]] | None = None,
) -> Fit:  # fmt: skip
    """Heads `[s c d]`, one per seed; the groups are the same for all of them, and erm is the fallback's start.

    label_of: with hints, from rows of val to their true attribute.
    """
    check_same_origin(train, val)
    for split in (train, val):
        split.refuse_test(CALLED)
    found = find_groups(train, val, fold_seeds=settings.fold_seeds)
    how = {"settings": settings, "seeds": seeds, "scorer": scorer, "label_of": label_of}
    return fit_found(found, train, val, erm, **how)


def fit_found(
    found: Found, train: Embeddings, val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int],
    scorer: Scorer, label_of: Callable[[Int[np.ndarray, " k"]], Int[np.ndarray, " k"]] | None = None,
) -> Fit:  # fmt: skip
    """The rest of `fit`, once val's groups are found."""
    hinted = None
    if label_of is not None:
        hinted = use_hints(found, val.y.numpy(), label_of, n=settings.hints, by=settings.hints_by)
        found = hinted.found
    name, reason = branch(found, val, settings, confirmed=hinted is not None and hinted.p_unrelated <= settings.level)
    known = {"settings": settings, "seeds": seeds, "called": CALLED}
    if name == "dfr":
        train, val = with_attribute(train, found.train), with_attribute(val, found.val)
        on, scorer = "both" if settings.with_train else "val", Scorer(val, "worst_group")
        fitted = fit_balanced(train, val, lambda rows: rows.group.numpy(), on=on, scorer=scorer, **known)
        fitted = replace(fitted, chosen_by=fitted.chosen_by.replace("worst group", "worst inferred group"))
    elif name == "balanced":
        name, fitted = fit_on_balanced(with_attribute(val, found.val), erm, settings=settings, seeds=seeds)
    else:
        fitted = fit_pulled(val, erm, settings=settings, seeds=seeds, scorer=scorer)
    minority = ", ".join(f"{100 * (1 - share):.0f} %" for share in found.shares.diagonal())
    said = (
        f"{BRANCHES[name]}: {reason} (p of one cloud {found.p_gate:.2g}, of wrong labels {found.p_guard:.2g}; "
        f"separation {found.separation:.1f}; minority {minority} by class)"
    )
    numbers = dict(found.numbers)
    if hinted is not None:
        said += f"; {len(hinted.rows)} hints, p of unrelated ones {hinted.p_unrelated:.2g}"
        numbers["p_hints"] = hinted.p_unrelated
    table = found.table(val)
    table["hinted"] = np.isin(np.arange(len(table)), [] if hinted is None else hinted.rows)
    table.attrs["branch"] = BRANCHES[name]
    return replace(
        fitted,
        summary=f"{said}; {fitted.summary}",
        remarks=(said,) * len(fitted.seeds),
        settings={"branch": name, **numbers, **fitted.settings},
        tables={"groups_found": table},
    )


def fit_on_balanced(val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int]) -> tuple[str, Fit]:
    """`llr` or `afr` and its heads: that of the better worst inferred group where each half of val is fitted alone.

    Settings are chosen by the same rule; on a tie it is LLR, and all seeds take the choice of the first.
    """

    def llr(rows: Embeddings, seeds: Sequence[int]) -> Fit:
        how = {"settings": settings, "seeds": seeds, "scorer": Scorer(rows, "worst_group"), "called": CALLED}
        return fit_balanced(rows, rows, lambda given: given.y.numpy(), on="val", **how)

    def afr(rows: Embeddings, seeds: Sequence[int]) -> Fit:
        return fit_pulled(rows, erm, settings=settings, seeds=seeds, scorer=Scorer(rows, "worst_group"))

    group, methods, score = val.group.numpy(), {"llr": llr, "afr": afr}, {}
    halves = stratified_folds(group, 2, np.random.default_rng(0))
    for name, method in methods.items():
        right = np.empty(len(group), dtype=bool)
        for half in (0, 1):
            taught, held = (torch.from_numpy(np.flatnonzero(rows)) for rows in (halves != half, halves == half))
            logits = method(val.take(taught), seeds[:1]).head.logits(val.features[held])[0]
            right[held] = (logits.argmax(-1) == val.y[held]).numpy()
        score[name] = min(right[group == one].mean() for one in np.unique(group))
    name = max(score, key=score.get)  # the first of equal ones
    fitted = methods[name](val, seeds)
    said = f"worst inferred group of halves {percent([score['llr']])} by LLR, {percent([score['afr']])} by AFR"
    by = f"{fitted.chosen_by.replace('worst group', 'worst inferred group')}; {said}"
    return name, replace(fitted, chosen_by=by, summary=f"{said}; {fitted.summary}")


def fit_pulled(
    val: Embeddings, erm: Head, *, settings: Settings, seeds: Sequence[int], scorer: Scorer
) -> Fit:  # fmt: skip
    how = {"gammas": settings.gammas, "penalties": settings.penalties}
    return fit_afr(val, erm, **how, seeds=seeds, scorer=scorer, called=CALLED)


BRANCHES = {"dfr": "DFR on inferred groups", "llr": "class-balanced LLR", "afr": "AFR on validation"}
