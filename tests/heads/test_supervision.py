"""Group labels reach a method only where its settings say so; every method on embeddings is held to it."""

from dataclasses import replace
from importlib import import_module
from types import ModuleType

import pytest
import torch

from hsfm.heads.fit import Fit
from hsfm.heads.fit_inputs import FitInputs
from hsfm.heads.head import Head, stack
from hsfm.heads.known_methods import found
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.scorer import Scorer
from hsfm.heads.supervision import fit_row, fit_supervised, labels_used, scorer_of
from tests.methods.small import needs_of, settings_of

METHODS = [name for name, method in found().items() if not method.images]
HIDDEN = {"none": ("train", "val"), "val": ("train",), "train": ("val",), "both": ()}


def shuffled(embeddings):
    order = torch.randperm(len(embeddings.y), generator=torch.Generator().manual_seed(0))
    return replace(embeddings, attribute=embeddings.attribute[order])


def unknown(embeddings):
    return embeddings.without_attributes()


def altered(settings, change, train, val):
    """Train and val, those whose labels the method does not train on with other labels."""
    left_out = HIDDEN[settings.groups]
    return change(train) if "train" in left_out else train, change(val) if "val" in left_out else val


def assert_same(fit, expected):
    assert torch.equal(fit.head.weight, expected.head.weight)
    assert torch.equal(fit.head.bias, expected.head.bias)
    texts = ("seeds", "chosen_by", "remarks", "settings")
    assert [getattr(fit, name) for name in texts] == [getattr(expected, name) for name in texts]
    for name, values in expected.arrays.items():
        assert (fit.arrays[name] == values).all()


@pytest.mark.parametrize(
    ("change", "rule"), [(shuffled, "worst_class"), (unknown, "worst_class"), (shuffled, "inferred_group")]
)
@pytest.mark.parametrize("name", METHODS)
def test_without_a_rule_that_reads_groups_labels_change_nothing(splits, erm_head, name, change, rule):
    """Bit for bit; the history's worst group, which is measured for readers, apart."""
    method, settings = import_module(f"hsfm.methods.{name}"), settings_of(name, select_by=rule)
    given = splits["train"], splits["val"]
    needs = needs_of(method, erm_head, splits["val"])
    fits = [
        fit_supervised(method, *parts, erm_head, settings=settings, seeds=(0, 1), **needs)
        for parts in (given, altered(settings, change, *given))
    ]
    (expected, labels), (fit, same_labels) = fits
    assert labels == same_labels == {"val": "training"}.get(settings.groups, settings.groups)
    assert_same(fit, expected)


# A method that peeks --------------------------------------------------------------------------------------------------


def peeking(groups: str) -> ModuleType:
    """A method whose head tells the attributes that it is given, and which says that it trains on `groups`."""
    module = ModuleType("peeking")

    class Settings(MethodSettings):
        @property
        def groups(self):
            return groups

    def fit(train, val, erm, *, settings, seeds, scorer):
        seen = torch.tensor([float(part.attribute.double().mean()) for part in (train, val)])
        scorer(erm.logits(val.features))
        return Fit(Head(erm.weight[None] + seen.sum(), seen[None]), tuple(seeds[:1]))

    module.Settings, module.fit = Settings, fit
    return module


@pytest.mark.parametrize("groups", HIDDEN)
def test_a_method_that_peeks_sees_no_label_that_it_may_not(splits, erm_head, groups):
    method = peeking(groups)
    settings = method.Settings(select_by="worst_class")
    fit, labels = fit_supervised(method, splits["train"], splits["val"], erm_head, settings=settings, seeds=(0,))
    assert fit.head.bias[0].tolist() == [-1.0 if name in HIDDEN[groups] else 0.5 for name in ("train", "val")]
    assert labels == {"val": "training"}.get(groups, groups)
    assert (splits["val"].attribute >= 0).all(), "hidden in a copy"


def test_the_comparison_finds_a_method_that_is_shown_labels(splits, erm_head):
    """The check itself can fail: without `hidden`, other labels are another head."""
    method = peeking("none")
    settings, scorer = method.Settings(), Scorer(splits["val"], "average")
    given = splits["train"], splits["val"]
    shown, other = (
        method.fit(*parts, erm_head, settings=settings, seeds=(0,), scorer=scorer)
        for parts in (given, altered(settings, unknown, *given))
    )
    with pytest.raises(AssertionError):
        assert_same(other, shown)


# Rules ----------------------------------------------------------------------------------------------------------------


def test_the_scorer_goes_by_the_settings(splits):
    both = splits["train"], splits["val"]
    assert scorer_of(settings_of("dfr"), *both).rule == "worst_group"
    assert scorer_of(settings_of("llr"), *both).rule == "worst_class"
    assert scorer_of(settings_of("hsfm", select_by="average"), *both).rule == "average"
    own = scorer_of(settings_of("hsfm", select_by="hard_loss"), *(part.without_attributes() for part in both))
    assert own.rule == "average"
    assert labels_used(settings_of("hsfm", select_by="hard_loss"), own) == "none"


@pytest.mark.parametrize(
    ("rule", "labels"),
    [("worst_group", "selection"), ("worst_class", "none"), ("average", "none"), ("inferred_group", "none")],
)
def test_group_labels_are_used_once_worst_group_is_asked(splits, erm_head, rule, labels):
    settings, val = settings_of("hsfm", select_by=rule), splits["val"]
    scorer = scorer_of(settings, splits["train"], val)
    assert labels_used(settings, scorer) == "none"
    scorer(erm_head.logits(val.features))
    assert labels_used(settings, scorer) == labels


@pytest.mark.parametrize(
    ("own", "saved"), [((), ["its network", "its network"]), (("dead", ""), ["dead; its network", "its network"])]
)
def test_a_remark_on_the_network_stands_beside_those_on_heads(splits, erm_head, own, saved):
    method = ModuleType("afr")
    method.fit = lambda *_, **__: Fit(stack([erm_head] * 2), (0, 1), remarks=own)
    inputs = FitInputs(splits["train"], splits["val"], erm_head, "a" * 64, {}, remark="its network")
    how = {"row": "afr", "settings": settings_of("llr"), "seeds": (0, 1), "device": torch.device("cpu")}
    assert list(fit_row(method, inputs, **how)[1].remarks) == saved
    assert fit_row(method, replace(inputs, remark=""), **how)[1].remarks == own
