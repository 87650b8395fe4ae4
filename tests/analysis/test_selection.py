from dataclasses import replace
from importlib import import_module
from types import ModuleType

import pytest
import torch

from hsfm.analysis.selection import SHOWN, select_heads
from hsfm.core.metrics import accuracy_by, worst
from hsfm.evaluation.scores import BY_RULE, score_splits
from hsfm.features.embeddings import NotApplicable
from hsfm.heads.fit import Fit
from hsfm.heads.fit_inputs import FitInputs
from hsfm.heads.head import Head
from hsfm.heads.inferred_groups.attribute import infer_attribute
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.supervision import fit_supervised
from tests.conftest import planted
from tests.methods.small import needs_of, settings_of

COUNTED = ["seed", "split", "group", "n", "correct"]


def selected(splits, erm, method, settings, seeds=(0,)):
    inputs = FitInputs(splits["train"], splits["val"], erm, "a" * 64, needs_of(method, erm, splits["val"]))
    how = {"row": "mine", "settings": settings, "seeds": seeds, "run": 4, "device": torch.device("cpu")}
    return select_heads(method, inputs, splits["test"], **how)


def choosing(candidates: Head) -> ModuleType:
    """A method that takes the candidate with the highest score."""
    module = ModuleType("choosing")

    def fit(train, val, erm, *, settings, seeds, scorer):
        best = int(scorer(candidates.logits(val.features)).argmax())
        return Fit(candidates[best : best + 1], (0,), chosen_by=scorer.in_words)

    module.fit = fit
    return module


def test_every_rule_picks_its_own_best_head(splits, erm_head):
    generator = torch.Generator().manual_seed(11)
    candidates = Head(torch.randn(300, 2, 12, generator=generator), torch.randn(300, 2, generator=generator))
    splits = {**splits, "val": planted("val", [90, 20, 20, 50], seed=1)}
    val, test = splits["val"], splits["test"]
    correct = candidates.predict(val.features) == val.y
    inferred, doubt = infer_attribute(splits["train"], val, "the test")
    assert doubt == ""
    scores = {
        "inferred_group": worst(accuracy_by(correct, inferred.group, 4)),
        "worst_group": worst(accuracy_by(correct, val.group, 4)),
        "worst_class": worst(accuracy_by(correct, val.y, 2)),
        "average": correct.double().mean(1),
    }
    best = {rule: int(values.argmax()) for rule, values in scores.items()}
    assert len({*best.values()}) >= 3, "or the test shows nothing"
    found = selected(splits, erm_head, choosing(candidates), MethodSettings(select_by="average"))
    assert list(found["rule"].unique()) == list(SHOWN)
    assert found.groupby("rule")["chosen_by"].first().to_dict() == {
        **{rule: rule.replace("_", " ") for rule in SHOWN},
        "inferred_group": "worst inferred group",
    }
    for rule, own in found.groupby("rule"):
        expected = score_splits(candidates[best[rule] : best[rule] + 1], [val, test], seeds=(0,))
        assert own[COUNTED].to_numpy().tolist() == expected[COUNTED].to_numpy().tolist()
    assert found.groupby("rule")["group_labels"].first().to_dict() == {
        **{"worst_group": "selection", "worst_class": "none", "average": "none", "inferred_group": "none"}
    }


@pytest.mark.parametrize("name", ["dfr", "tune", "hsfm"])
def test_a_row_is_the_method_with_each_rule_in_its_settings(splits, erm_head, name):
    method, (train, val) = import_module(f"hsfm.methods.{name}"), (splits["train"], splits["val"])
    found = selected(splits, erm_head, method, settings_of(name), seeds=(3, 5))
    assert set(BY_RULE.names) <= set(found)
    assert found[["run", "method", "dataset"]].drop_duplicates().to_numpy().tolist() == [[4, "mine", "planted"]]
    for rule, own in found.groupby("rule"):
        settings, needs = settings_of(name, select_by=rule), needs_of(method, erm_head, val)
        fit, labels = fit_supervised(method, train, val, erm_head, settings=settings, seeds=(3, 5), **needs)
        expected = score_splits(fit.head, [val, splits["test"]], seeds=fit.seeds)
        assert own[COUNTED].to_numpy().tolist() == expected[COUNTED].to_numpy().tolist()
        assert (set(own["group_labels"]), set(own["chosen_by"])) == ({labels}, {fit.chosen_by})


def test_a_rule_of_the_methods_own_stays(splits, erm_head):
    hsfm = import_module("hsfm.methods.hsfm")
    found = selected(splits, erm_head, hsfm, settings_of("hsfm", select_by="hard_loss"))
    assert set(found["chosen_by"]) == {"the epoch with the lowest loss on its hard set"}
    assert set(found["group_labels"]) == {"none"}
    first, *others = (own[COUNTED].to_numpy().tolist() for _, own in found.groupby("rule"))
    assert others == [first] * 3


def test_without_groups_of_validation_three_rules_are_left(splits, erm_head):
    unknown = {**splits, "val": splits["val"].without_attributes()}
    found = selected(unknown, erm_head, import_module("hsfm.methods.tune"), settings_of("tune"))
    assert list(found["rule"].unique()) == ["worst_class", "average", "inferred_group"]
    with pytest.raises(NotApplicable, match="240 of 240 lack it"):
        selected(unknown, erm_head, import_module("hsfm.methods.dfr"), settings_of("dfr"))


def test_test_images_of_another_network_are_refused(splits, erm_head):
    other = {**splits, "test": replace(splits["test"], checkpoint_sha256="b" * 64)}
    with pytest.raises(ValueError, match=r"planted test: checkpoint b+, but the mine heads are for a+"):
        selected(other, erm_head, import_module("hsfm.methods.tune"), settings_of("tune"))
