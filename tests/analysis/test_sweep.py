from dataclasses import replace

import pytest
import torch

from hsfm.analysis import sweep
from hsfm.analysis.sweep import (
    SWEPT,
    SweepSettings,
    Values,
    accuracies,
    combinations,
    plan_sweep,
    share_out,
    sweep_settings,
)
from hsfm.core.metrics import accuracy_by, worst
from hsfm.heads.hard_set import HardSetSettings
from hsfm.heads.scorer import Scorer
from hsfm.methods.hsfm import train as meta
from hsfm.methods.hsfm.outer_loop import Settings
from hsfm.methods.hsfm.train import train

BASE = {"inner_steps": 5, "inner_lr": 1e-2, "outer_lr": 0.1, "support_steps": 3, "hard_per_class": 20,
        "support_per_class": 16}  # fmt: skip
VALUES = {"inner_steps": [2, 5], "inner_lr": [1e-2, 3e-2], "outer_lr": [0.1, 0.5]}
SETTINGS = Settings(**{name: value for name, value in BASE.items() if name != "hard_per_class"}, epochs=4)


def planned(values=VALUES, *, draws=None, seeds=(0, 1)):
    """All combinations of some values around BASE."""
    values = {**dict.fromkeys(SWEPT), **values}
    return plan_sweep(SETTINGS, 20, SweepSettings(draws=draws, seeds=tuple(seeds), values=values))


def test_the_grid_is_every_combination_after_the_base():
    settings = combinations(BASE, VALUES, draws=None, seed=0)
    assert settings[0] == BASE
    assert len(settings) == 8, "the base is one of the eight and is not tried twice"
    assert len({tuple(s.values()) for s in settings}) == 8
    assert all(set(s) == set(SWEPT) for s in settings)
    assert all(s["support_steps"] == 3 for s in settings), "what is not swept stays as it is"
    assert combinations(BASE, {**VALUES, "support_steps": None}, draws=None, seed=0) == settings


def test_random_draws_differ_and_repeat_by_seed():
    wide = {**VALUES, "support_steps": [1, 2, 4, 8], "hard_per_class": [5, 10, 40]}
    first, again, other = (combinations(BASE, wide, draws=20, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert len({tuple(s.values()) for s in first}) == 21
    for setting in first[1:]:
        assert all(setting[name] in listed for name, listed in wide.items())
    assert len(combinations(BASE, wide, draws=1000, seed=0)) == 97, "more draws than combinations: all of them"


def test_what_may_be_swept_is_said_where_the_settings_are():
    fields = {**Settings.model_fields, **HardSetSettings.model_fields}
    assert set(SWEPT) == set(BASE)
    for name, values in Values():
        assert list(values) == fields[name].json_schema_extra["sweep"]
        assert fields[name].default in values, "the default is worth trying"
        assert (Settings if name in Settings.model_fields else HardSetSettings)(**{name: values[-1]})


@pytest.mark.parametrize("draws", [None, 5])
def test_a_plan_is_the_combinations_around_the_settings(draws):
    """In alphabetical order of the settings, on which the random ones depend."""
    entries = sorted((entry for group in planned(draws=draws) for entry in group), key=lambda entry: entry[0])
    expected = combinations(BASE, dict(sorted(VALUES.items())), draws=draws, seed=0)
    found = [{name: getattr(trial.settings, name, trial.hard_per_class) for name in BASE} for _, trial in entries]
    assert found == [s for s in expected for _ in (0, 1)]
    assert {trial.settings.epochs for _, trial in entries} == {4}


@pytest.fixture(scope="module")
def swept(splits, erm_head):
    return sweep_settings(splits["train"], splits["val"], splits["test"], erm_head, planned())


def test_each_row_is_what_training_that_setting_alone_gives(splits, erm_head, swept):
    assert len(swept) == 8 * 2 * 2
    assert swept[["setting", "seed", "rule"]].drop_duplicates().shape[0] == len(swept)
    for row in swept.iloc[[0, 5, 13, 30]].itertuples():
        settings = Settings(**{**dict(SETTINGS), **{name: getattr(row, name) for name in VALUES}})
        scorer = Scorer(splits["val"], row.rule)
        alone = train(
            splits["train"], splits["val"], erm_head, settings, seeds=[row.seed], hard_per_class=20, scorer=scorer
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
    groups = planned()
    budget = next(
        b for b in range(1000, 10**8, 1000)
        if meta.trials_that_fit(splits["train"], splits["val"], groups[0][0][1], kept=2, memory_budget=b) == 3
    )  # fmt: skip
    cut = sweep_settings(splits["train"], splits["val"], splits["test"], erm_head, groups, memory_budget=budget)
    assert sizes == [3, 3, 2] * 2
    assert cut.drop(columns=["moved"]).round(1).equals(swept.drop(columns=["moved"]).round(1))


def test_one_unknown_group_may_be_the_worst(splits, erm_head):
    test = splits["test"]
    some = replace(test, attribute=torch.where(torch.arange(600) == 7, -1, test.attribute))
    assert accuracies(erm_head, some)["worst_group"].isnan().all()
    assert not accuracies(erm_head, test)["worst_group"].isnan().any()


def test_jobs_get_equal_work_and_every_trial_once():
    groups = planned(seeds=range(5))
    everything = sorted((number, trial.seed) for group in groups for number, trial in group)
    for parts in (1, 2, 3, 7):
        jobs = share_out(groups, parts)
        assert len(jobs) == parts
        assert sorted((number, t.seed) for job in jobs for piece in job for number, t in piece) == everything
        assert all(len({t.shape for _, t in piece}) == 1 for job in jobs for piece in job)
    alone = planned({"inner_lr": [0.5]}, seeds=[0])
    assert [sum(map(len, job)) for job in share_out(alone, 2)] == [1, 1], "one shape for two jobs is cut"
    assert [sum(map(len, job)) for job in share_out(alone, 3)] == [1, 1, 0]


def test_a_setting_that_diverges_is_a_row_of_nan(splits, erm_head):
    groups = planned({"inner_lr": [1e38]}, seeds=[0])
    frame = sweep_settings(splits["train"], splits["val"], splits["test"], erm_head, groups).set_index(
        ["setting", "rule"]
    )
    measures = [name for name in frame if name.startswith(("val_", "test_"))]
    assert frame.loc[0, measures].notna().all(axis=None)
    assert frame.loc[1, measures].isna().all(axis=None)
    assert frame.loc[1, "kept_epoch"].tolist() == [0, 0]


def test_without_groups_the_worst_class_picks(splits, erm_head):
    val, test = (splits[s].without_attributes() for s in ("val", "test"))
    found = sweep_settings(splits["train"], val, test, erm_head, planned({}, seeds=[0]))
    assert found["rule"].tolist() == ["worst_class"]
    assert found[["val_worst_group", "test_worst_group"]].isna().all(axis=None)
