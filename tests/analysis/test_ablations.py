import inspect

import torch

from hsfm.analysis.ablations import VARIANTS, fit_variants, score_variants
from hsfm.methods.hsfm import train as meta
from hsfm.report import study_tables as report

SETTINGS = {"support_per_class": 16, "inner_steps": 3, "inner_lr": 1e-2, "outer_lr": 0.1, "support_steps": 3,
            "hard_per_class": 20, "epochs": 3}  # fmt: skip


def test_each_variant_is_training_with_its_own_setting(splits, erm_head):
    tr, val = splits["train"], splits["val"]
    results = fit_variants(tr, val, erm_head, seeds=[0, 1], settings=SETTINGS)
    assert list(results) == list(VARIANTS)
    for name, changes in VARIANTS.items():
        expected = meta.train(tr, val, erm_head, seeds=[0, 1], **{**SETTINGS, **changes})
        assert torch.equal(results[name].head.weight, expected.head.weight)
    for name in VARIANTS.keys() - {"hsfm"}:
        assert not torch.equal(results[name].support_after, results["hsfm"].support_after), name


def test_a_variant_that_the_settings_are_already_is_left_out(splits, erm_head):
    settings = {**SETTINGS, "refresh": "never", "epochs": 1}
    results = fit_variants(splits["train"], splits["val"], erm_head, seeds=[0], settings=settings)
    assert list(results) == [name for name in VARIANTS if name != "hard_set_once"]


def test_every_variant_is_a_change_of_the_default_and_has_words():
    defaults = {name: p.default for name, p in inspect.signature(meta.train).parameters.items()}
    for changes in VARIANTS.values():
        assert all(defaults[name] != value for name, value in changes.items())
    assert set(report.VARIANTS) == set(VARIANTS)


def test_scores_of_variants_carry_their_names_and_the_rule(splits, erm_head):
    settings = {**SETTINGS, "epochs": 1}
    parts = [splits[name] for name in ("train", "val", "test")]
    results = fit_variants(*parts[:2], erm_head, seeds=[3, 5], settings=settings)
    scores = score_variants(results, parts, "worst_class")
    assert scores.groupby("method", sort=False).size().to_dict() == dict.fromkeys(results, 2 * 3 * 4)
    assert set(scores["chosen_by"]) == {"the epoch with the best validation worst class"}
    assert set(scores["group_labels"]) == {"none"}
    test = splits["test"]
    for name, result in results.items():
        correct = (result.head.predict(test.features) == test.y).sum(1).tolist()
        own = scores[(scores["method"] == name) & (scores["split"] == "test")]
        assert own.groupby("seed")["correct"].sum().tolist() == correct
        assert own.groupby("seed")["remark"].first().tolist() == list(result.remarks)
