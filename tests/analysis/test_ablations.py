import pytest
import torch

from hsfm.analysis.ablations import VARIANTS, fit_variants, score_variants
from hsfm.heads.scorer import Scorer
from hsfm.methods.hsfm.outer_loop import Settings
from hsfm.methods.hsfm.train import train
from hsfm.report import study_tables as report

SETTINGS = Settings(support_per_class=16, inner_steps=3, inner_lr=1e-2, outer_lr=0.1, support_steps=3, epochs=3)


def changed(**changes):
    return Settings(**{**dict(SETTINGS), **changes})


def test_each_variant_is_training_with_its_own_setting(splits, erm_head):
    tr, val = splits["train"], splits["val"]
    results, scorer = fit_variants(tr, val, erm_head, SETTINGS, seeds=[0, 1], hard_per_class=20)
    assert scorer.rule == "worst_group"
    assert list(results) == list(VARIANTS)
    for name, changes in VARIANTS.items():
        how = {"seeds": [0, 1], "hard_per_class": 20, "scorer": Scorer(val, "worst_group")}
        expected = train(tr, val, erm_head, changed(**changes), **how)
        assert torch.equal(results[name].head.weight, expected.head.weight)
    for name in VARIANTS.keys() - {"hsfm"}:
        assert not torch.equal(results[name].support_after, results["hsfm"].support_after), name


def test_a_variant_that_the_settings_are_already_is_left_out(splits, erm_head):
    settings = changed(refresh="never", epochs=1)
    results, _ = fit_variants(splits["train"], splits["val"], erm_head, settings, seeds=[0], hard_per_class=20)
    assert list(results) == [name for name in VARIANTS if name != "hard_set_once"]


def test_every_variant_is_a_change_of_the_default_and_has_words():
    for changes in VARIANTS.values():
        assert all(getattr(Settings(), name) != value for name, value in changes.items())
        assert changed(**changes)
    assert set(report.VARIANTS) == set(VARIANTS)


@pytest.mark.parametrize(
    ("rule", "words", "labels"),
    [
        (None, "the epoch with the best validation worst group", "selection"),
        ("hard_loss", "the epoch with the lowest loss on its hard set", "none"),
    ],
)
def test_scores_of_variants_carry_their_names_and_the_rule(splits, erm_head, rule, words, labels):
    settings = changed(epochs=1, select_by=rule)
    parts = [splits[name] for name in ("train", "val", "test")]
    results, scorer = fit_variants(*parts[:2], erm_head, settings, seeds=[3, 5], hard_per_class=20)
    scores = score_variants(results, parts, settings, scorer)
    assert scores.groupby("method", sort=False).size().to_dict() == dict.fromkeys(results, 2 * 3 * 4)
    assert set(scores["chosen_by"]) == {words}
    assert set(scores["group_labels"]) == {labels}
    test = splits["test"]
    for name, result in results.items():
        correct = (result.head.predict(test.features) == test.y).sum(1).tolist()
        own = scores[(scores["method"] == name) & (scores["split"] == "test")]
        assert own.groupby("seed")["correct"].sum().tolist() == correct
        assert own.groupby("seed")["remark"].first().tolist() == list(result.remarks)
