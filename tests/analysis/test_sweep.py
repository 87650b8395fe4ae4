from dataclasses import replace

import pytest
import torch

from hsfm.analysis import sweep
from hsfm.analysis.sweep import SETTINGS, accuracies, combinations, plan_sweep, share_out, sweep_settings, sweep_trials
from hsfm.core.metrics import accuracy_by, worst
from hsfm.methods.hsfm import train as meta
from hsfm.methods.hsfm.train import Shared, Trial, train

BASE = {"inner_steps": 5, "inner_lr": 1e-2, "outer_lr": 0.1, "support_steps": 3, "hard_per_class": 20,
        "support_per_class": 16}  # fmt: skip
VALUES = {"inner_steps": [2, 5], "inner_lr": [1e-2, 3e-2], "outer_lr": [0.1, 0.5]}
FIXED = {"epochs": 4, "refresh": "epoch", "outer_set": "hard", "gradient": "full", "support_draw": "per_class"}


def test_the_grid_is_every_combination_after_the_base():
    settings = combinations(BASE, VALUES, draws=None, seed=0)
    assert settings[0] == BASE
    assert len(settings) == 8, "the base is one of the eight and is not tried twice"
    assert len({tuple(s.values()) for s in settings}) == 8
    assert all(set(s) == set(SETTINGS) for s in settings)
    assert all(s["support_steps"] == 3 for s in settings), "what is not swept stays as it is"


def test_random_draws_differ_and_repeat_by_seed():
    wide = {**VALUES, "support_steps": [1, 2, 4, 8], "hard_per_class": [5, 10, 40]}
    first, again, other = (combinations(BASE, wide, draws=20, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len({tuple(s.values()) for s in first}) == 21
    for setting in first[1:]:
        assert all(setting[name] in listed for name, listed in wide.items())
    assert len(combinations(BASE, wide, draws=1000, seed=0)) == 97, "more draws than combinations: all of them"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": {"inner_step": [1]}}, "values: unknown setting 'inner_step'; allowed are inner_steps"),
        ({"values": {"inner_lr": []}}, r"values: inner_lr lists \[\], which is empty or repeats"),
        ({"values": {"inner_lr": [0.1, 0.1]}}, "values: inner_lr lists"),
        ({"draws": 0}, "draws: 0 is not a positive whole number"),
    ],
)
def test_a_sweep_that_makes_no_sense_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        combinations(BASE, **{"values": VALUES, "draws": None, "seed": 0, **change})


def test_trials_go_together_where_they_share_their_shapes():
    groups = sweep_trials(combinations(BASE, VALUES, draws=None, seed=0), seeds=[0, 1], fixed=FIXED)
    assert sorted(group[0].shared.inner_steps for group in groups) == [2, 5]
    for group in groups:
        assert len(group) == 8
        assert len({trial.shared for trial in group}) == 1
        assert {(t.trial.inner_lr, t.trial.outer_lr, t.trial.seed) for t in group} == {
            (a, e, s) for a in (1e-2, 3e-2) for e in (0.1, 0.5) for s in (0, 1)
        }


@pytest.fixture(scope="module")
def swept(splits, erm_head):
    groups = sweep_trials(combinations(BASE, VALUES, draws=None, seed=0), seeds=[0, 1], fixed=FIXED)
    return sweep_settings(splits["train"], splits["val"], splits["test"], erm_head, groups)


def test_each_row_is_what_training_that_setting_alone_gives(splits, erm_head, swept):
    assert len(swept) == 8 * 2 * 2
    assert swept[["setting", "seed", "rule"]].drop_duplicates().shape[0] == len(swept)
    for row in swept.iloc[[0, 5, 13, 30]].itertuples():
        settings = {name: getattr(row, name) for name in SETTINGS}
        alone = train(
            splits["train"], splits["val"], erm_head, seeds=[row.seed], epochs=4, select_by=row.rule, **settings
        )
        assert row.kept_epoch == int(alone.kept_epoch[0])
        for split in ("val", "test"):
            e = splits[split]
            correct = alone.head[0].predict(e.features) == e.y
            assert getattr(row, f"{split}_average") == pytest.approx(float(correct.double().mean()), abs=0.005)
            worst_group = float(worst(accuracy_by(correct, e.group, 4)))
            assert getattr(row, f"{split}_worst_group") == pytest.approx(worst_group, abs=0.02)
            worst_class = float(worst(accuracy_by(correct, e.y, 2)))
            assert getattr(row, f"{split}_worst_class") == pytest.approx(worst_class, abs=0.01)


def test_a_sweep_that_does_not_fit_is_cut(splits, erm_head, swept, monkeypatch):
    sizes = []
    original = sweep.train_trials
    monkeypatch.setattr(sweep, "train_trials", lambda *a, **k: sizes.append(len(a[3])) or original(*a, **k))
    groups = sweep_trials(combinations(BASE, VALUES, draws=None, seed=0), seeds=[0, 1], fixed=FIXED)
    shared = groups[0][0].shared
    budget = next(
        b for b in range(1000, 10**8, 1000)
        if meta.trials_that_fit(splits["train"], splits["val"], shared, rules=2, memory_budget=b) == 3
    )  # fmt: skip
    cut = sweep_settings(splits["train"], splits["val"], splits["test"], erm_head, groups, memory_budget=budget)
    assert sizes == [3, 3, 2] * 2
    assert cut.drop(columns=["moved"]).round(1).equals(swept.drop(columns=["moved"]).round(1))


def test_accuracies_without_groups(splits, erm_head):
    blind = replace(splits["test"], attribute=torch.full_like(splits["test"].attribute, -1))
    assert accuracies(erm_head, blind)["worst_group"].isnan().all()
    assert not accuracies(erm_head, splits["test"])["worst_group"].isnan().any()


def test_a_trial_and_a_shape_hold_everything_that_a_sweep_may_change():
    assert {*Trial.__dataclass_fields__, *Shared.__dataclass_fields__} >= set(SETTINGS)


def test_jobs_get_equal_work_and_every_trial_once():
    groups = sweep_trials(combinations(BASE, VALUES, draws=None, seed=0), seeds=range(5), fixed=FIXED)
    everything = sorted((t.number, t.trial.seed) for group in groups for t in group)
    for parts in (1, 2, 3, 7):
        jobs = share_out(groups, parts)
        assert len(jobs) == parts
        assert sorted((t.number, t.trial.seed) for job in jobs for piece in job for t in piece) == everything
        assert all(len({t.shared for t in piece}) == 1 for job in jobs for piece in job)
    alone = sweep_trials([BASE, {**BASE, "inner_lr": 0.5}], seeds=[0], fixed=FIXED)
    assert [sum(map(len, job)) for job in share_out(alone, 2)] == [1, 1], "one shape for two jobs is cut"
    assert [sum(map(len, job)) for job in share_out(alone, 3)] == [1, 1, 0]


def test_a_job_without_work_gives_an_empty_table(splits, erm_head, swept):
    empty = sweep_settings(splits["train"], splits["val"], splits["test"], erm_head, [])
    assert empty.empty
    assert empty.columns.tolist() == swept.columns.tolist()


def test_a_setting_that_diverges_is_a_row_of_nan(splits, erm_head):
    groups = sweep_trials([BASE, {**BASE, "inner_lr": 1e38}], seeds=[0], fixed=FIXED)
    frame = sweep_settings(splits["train"], splits["val"], splits["test"], erm_head, groups).set_index(
        ["setting", "rule"]
    )
    measures = [name for name in frame if name.startswith(("val_", "test_"))]
    assert frame.loc[0, measures].notna().all(axis=None)
    assert frame.loc[1, measures].isna().all(axis=None)
    assert frame.loc[1, "kept_epoch"].tolist() == [0, 0]


def test_a_list_may_be_taken_back_and_seeds_may_not():
    assert combinations(BASE, {**VALUES, "outer_lr": None}, draws=None, seed=0) == combinations(
        BASE, {name: VALUES[name] for name in ("inner_steps", "inner_lr")}, draws=None, seed=0
    )
    with pytest.raises(ValueError, match=r"seeds: \[\] is empty or repeats a seed"):
        sweep_trials([BASE], seeds=[], fixed=FIXED)


def test_a_plan_is_all_combinations_around_the_settings():
    settings = {**BASE, **FIXED, "select_by": "worst_group"}
    planned = plan_sweep(settings, values=VALUES, draws=None, seed=0, seeds=[0, 1])
    assert planned == sweep_trials(combinations(BASE, VALUES, draws=None, seed=0), seeds=[0, 1], fixed=FIXED)


def test_without_groups_the_worst_class_picks(splits, erm_head):
    val, test = (replace(splits[s], attribute=torch.full_like(splits[s].y, -1)) for s in ("val", "test"))
    groups = sweep_trials([BASE], seeds=[0], fixed=FIXED)
    for parts, rules in (
        ((val, test), ["worst_class"]),
        ((splits["val"], splits["test"]), ["worst_class", "worst_group"]),
    ):
        assert sweep_settings(splits["train"], *parts, erm_head, groups)["rule"].tolist() == rules
