import pytest
import torch

from hsfm.analysis.ablations import VARIANTS, ablate
from hsfm.heads.hard_set import build
from hsfm.heads.scorer import Scorer
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import hsfm
from hsfm.methods.hsfm.outer_loop import Settings
from hsfm.methods.hsfm.train import train
from hsfm.report import study_tables as report

SETTINGS = Settings(
    support_per_class=16, inner_steps=3, inner_lr=1e-2, outer_lr=0.1, support_steps=3, epochs=3, max_edit=0.2
)


def changed(**changes):
    return Settings(**{**dict(SETTINGS), **changes})


def scores_of(splits, head, settings, seeds=(0,)):
    return ablate(*splits.values(), head, settings, seeds=seeds, hard_per_class=20, device=torch.device("cpu"))


def test_each_variant_is_training_with_its_own_setting(splits, erm_head):
    scores = scores_of(splits, erm_head, SETTINGS, seeds=(3, 5))
    assert scores.groupby("method", sort=False).size().to_dict() == dict.fromkeys(VARIANTS, 2 * 3 * 4)
    test = splits["test"]
    for name, changes in VARIANTS.items():
        how = {"seeds": (3, 5), "hard_per_class": 20, "scorer": Scorer(splits["val"], "worst_group")}
        expected = train(splits["train"], splits["val"], erm_head, changed(**changes), **how)
        own = scores[(scores["method"] == name) & (scores["split"] == "test")]
        hits = (expected.head.predict(test.features) == test.y).sum(1).tolist()
        assert own.groupby("seed")["correct"].sum().tolist() == hits
        assert own.groupby("seed")["remark"].first().tolist() == list(expected.remarks)


def test_a_variant_that_the_settings_are_already_is_left_out(splits, erm_head):
    scores = scores_of(splits, erm_head, changed(refresh="never", epochs=1))
    assert list(scores["method"].unique()) == [name for name in VARIANTS if name != "hard_set_once"]


def test_every_variant_is_a_change_of_the_default_and_has_words():
    for changes in VARIANTS.values():
        assert all(getattr(Settings(), name) != value for name, value in changes.items())
    assert set(report.VARIANTS) == set(VARIANTS)


@pytest.mark.parametrize(
    ("rule", "words", "labels"),
    [
        (None, "the epoch with the best validation worst group", "selection"),
        ("hard_loss", "the epoch with the lowest loss on its hard set", "none"),
    ],
)
def test_scores_carry_the_rule(splits, erm_head, rule, words, labels):
    scores = scores_of(splits, erm_head, changed(epochs=1, select_by=rule))
    assert set(scores["chosen_by"]) == {words}
    assert set(scores["group_labels"]) == {labels}


def test_variants_run_under_the_settings_that_hsfm_chooses(splits, erm_head):
    grid = {"inner_lr": (0.05, 0.1), "outer_lr": (0.3,), "hard_share": (0.5,), "epochs": 12, "repeats": 1}
    settings = Settings(tune=grid)
    scores = scores_of(splits, erm_head, settings)
    whole, _ = fit_supervised(
        hsfm, splits["train"], splits["val"], erm_head,
        settings=settings, seeds=(0,), hard_set=build(erm_head, splits["val"], per_class=20),
    )  # fmt: skip
    test, own = splits["test"], scores[(scores["method"] == "hsfm") & (scores["split"] == "test")]
    assert own["correct"].sum() == int((whole.head.predict(test.features) == test.y).sum())
    assert set(scores["chosen_by"]) == {whole.chosen_by}
    assert scores["method"].nunique() == len(VARIANTS)
