import itertools

import numpy as np
import pandas as pd
import pytest

from hsfm.analysis.sweep import COLUMNS, SWEPT
from hsfm.report import study_figures as figures
from hsfm.report import study_tables as report
from tests.report.test_accuracy_tables import NONE_LEFT_OUT
from tests.report.test_tables import scores as scores_of

SETTINGS = {"inner_steps": 5, "inner_lr": 0.01, "outer_lr": 1.0, "support_steps": 3, "hard_per_class": 20,
            "support_per_class": 16}  # fmt: skip


METHODS = ("erm", "llr", "dfr", "hsfm", "hsfm_capped")


def selection_frame(
    dataset: str = "toy", rules=("worst_group", "worst_class", "average", "inferred_group")
) -> pd.DataFrame:
    """ERM, and HSFM of two seeds, whose worst group (in tens of percent) each rule leaves elsewhere."""
    worst = {"worst_group": (8, 9), "worst_class": (7, 5), "average": (4, 4), "inferred_group": (9, 9)}
    uses = {"worst_group": "selection", "worst_class": "none", "average": "none", "inferred_group": "none"}
    frames = [scores_of("erm", "none", [0], dataset=dataset, test=[(2, 20, 30, 40)])]
    for rule in rules:
        hits = [(own, 20, 30, 40) for own in worst[rule]]
        frames.append(scores_of("hsfm", uses[rule], [0, 1], dataset=dataset, test=hits).assign(rule=rule))
    return pd.concat(frames, ignore_index=True)


def test_a_method_stands_beside_itself_under_every_rule():
    erm, hsfm = report.summarize_selection(selection_frame()).to_dict("records")
    assert (erm["method"], hsfm["method"]) == ("erm", "hsfm")
    assert (erm["group_labels"], hsfm["group_labels"], hsfm["seeds"]) == ("none", "selection", 2)
    for rule, worst, average in (("worst_group", 85, 98.5), ("worst_class", 60, 96), ("average", 40, 94)):
        assert hsfm[f"by_{rule}_worst_group_percent"] == pytest.approx(worst)
        assert hsfm[f"by_{rule}_average_percent"] == pytest.approx(average)
        assert erm[f"by_{rule}_worst_group_percent"] == pytest.approx(20)
    assert hsfm["by_worst_class_worst_group_deviation"] == pytest.approx(np.std([70, 50], ddof=1))
    assert hsfm["without_labels"] == pytest.approx(-25)
    assert hsfm["without_labels_deviation"] == pytest.approx(np.std([-10, -40], ddof=1)), "paired by seed"
    assert erm["without_labels"] == 0


def test_the_selection_table_for_readers():
    """A dataset without groups of validation has no number by them; what is not there is named."""
    no_groups = selection_frame("other", rules=("worst_class", "average"))
    test = no_groups["split"] == "test"
    no_groups.loc[test, "group"] = np.nan
    scores = pd.concat([selection_frame(), no_groups], ignore_index=True)
    scores["group"] = scores["group"].astype("Int64")
    scores.loc[(scores["rule"] == "average") & (scores["seed"] == 1), "remark"] = "hardly moved"
    left_out = pd.DataFrame({"dataset": ["other"], "method": ["dfr"], "reason": ["no group is known"]})
    _, table = report.tabulate("selection", scores, left_out)
    text = table.markdown()
    assert "| toy | ERM | no | 20.0 | 92.0 | 20.0 | 92.0 | 20.0 | 92.0 | 20.0 | 92.0 | +0.0 |" in text
    assert (
        "| toy | HSFM | val, to select | 85.0 ± 7.1 | 98.5 ± 0.7 | 60.0 ± 14.1 | 96.0 ± 1.4 | 40.0 ± 0.0 | 94.0 ± 0.0 "
        "| 90.0 ± 0.0 | 99.0 ± 0.0 | -25.0 ± 21.2 |" in text
    )
    assert "| other | HSFM | no | - | - | - | 96.0 ± 1.4 | - | 94.0 ± 0.0 | - | - | - |" in text
    assert [row[0].text for row in table.rows] == ["toy", "toy", "other", "other"]
    assert table.made_from[1] == ("results/toy/run0/hsfm/scores.parquet",)
    assert "nan" not in text
    for note in ("trained on images (DaC, DDB).", "other, DFR: left out. no group is known.",
                 "toy, HSFM: hardly moved (run 0 seed 1)."):  # fmt: skip
        assert note in text


def sweep_frame(runs=(0,), seeds=(0,)) -> pd.DataFrame:
    """Three settings: 1 is best on validation by group, 2 by class; 0 is best on test, which must not matter."""
    val_group, val_class, test = [0.70, 0.90, 0.80], [0.80, 0.85, 0.95], [0.99, 0.88, 0.77]
    rows = []
    for run, seed, setting, rule in itertools.product(runs, seeds, range(3), ("worst_class", "worst_group")):
        noise = 0.01 * seed + 0.02 * run
        row = {"dataset": "birds", "run": run, "setting": setting, **SETTINGS, "inner_lr": 0.01 * (setting + 1)}
        row |= {"seed": seed, "rule": rule, "val_average": 0.9, "val_worst_group": val_group[setting] + noise}
        row |= {"val_worst_class": val_class[setting] + noise, "test_average": 0.95 + noise / 2}
        rows.append({**row, "test_worst_group": test[setting] - noise, "test_worst_class": test[setting]})
    return pd.DataFrame(rows)


def test_settings_that_were_swept_are_all_other_columns():
    frame = sweep_frame().assign(kept_epoch=3, moved=0.2, mine=1)
    assert report.swept_in(frame.columns) == [*SETTINGS, "mine"]
    summary = report.summarize_sweep(frame)
    assert summary.dtypes[list(SETTINGS)].to_dict() == frame.dtypes[list(SETTINGS)].to_dict()
    assert report.sweep_table(summary).header[3:10] == (*SETTINGS, "mine")


def test_a_sweep_records_what_the_tables_know():
    assert report.swept_in(COLUMNS) == list(SWEPT)


def test_the_best_setting_is_chosen_on_validation():
    summary = report.summarize_sweep(sweep_frame(seeds=(0, 1))).set_index(["rule", "choice"])
    assert summary.loc[("worst_group", "best on validation"), "setting"] == 1
    assert summary.loc[("worst_class", "best on validation"), "setting"] == 2
    assert (summary.xs("as configured", level=1)["setting"] == 0).all()
    best = summary.loc[("worst_group", "best on validation")]
    assert best["val_percent"] == pytest.approx(90.5)
    assert best["test_worst_group_percent"] == pytest.approx(87.5)
    assert best["test_worst_group_deviation"] == pytest.approx(100 * np.std([0.88, 0.87], ddof=1))
    assert best["inner_lr"] == pytest.approx(0.02)
    assert best["test_worst_group_highest"] == pytest.approx(98.5)
    assert best["settings"] == 3


def test_a_tie_goes_to_the_higher_average_then_to_the_lower_number():
    frame = sweep_frame().assign(val_worst_group=0.8)

    def chosen(frame):
        summary = report.summarize_sweep(frame).set_index(["rule", "choice"])
        return summary.loc[("worst_group", "best on validation"), "setting"]

    assert chosen(frame) == 0
    assert chosen(frame.assign(val_average=0.9 + 0.01 * frame["setting"])) == 2


def test_without_groups_only_the_worst_class_picks():
    frame = sweep_frame()
    frame = frame[frame["rule"] == "worst_class"].assign(val_worst_group=np.nan, test_worst_group=np.nan)
    summary = report.summarize_sweep(frame)
    assert summary["rule"].tolist() == ["worst_class"] * 2
    text = report.sweep_table(summary).markdown()
    assert "nan" not in text
    assert "| 95.0 | - | 95.0 | 77.0 |" in text
    figures.draw_sweep(frame, "t").canvas.draw()


def test_the_sweep_for_readers():
    text = report.sweep_table(report.summarize_sweep(sweep_frame())).markdown()
    assert (
        "| birds | worst group | best on validation | 5 | 0.02 | 1 | 3 | 20 | 16 | 90.0 | 88.0 | 95.0 | 88.0 |" in text
    )
    assert "Test accuracies choose nothing. One head on one backbone run: no deviation." in text
    assert "birds, worst group: over the 3 settings that did not diverge the test worst group is between 77.0" in text
    assert "77.0 and 99.0, median 88.0." in text


def test_the_sweep_figure_has_a_panel_per_swept_setting():
    frame = sweep_frame().assign(inner_steps=lambda f: 5 + f["setting"] % 2)
    figure = figures.draw_sweep(frame, "a title")
    drawn = [axis.get_xlabel() for axis in figure.axes if axis.axison]
    assert drawn == ["inner_steps", "inner_lr"]
    lines = figure.axes[1].get_lines()
    medians = next(line for line in lines if line.get_label() == "test worst group, median")
    assert medians.get_ydata().tolist() == pytest.approx([99, 88, 77])
    star = next(line for line in lines if line.get_label() == "best on validation")
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (1, pytest.approx(88))
    figure.canvas.draw()
    four = frame.assign(a=frame["setting"] % 2, b=frame["setting"] + 1)
    assert sum(axis.axison for axis in figures.draw_sweep(four, "a title").axes) == 4, "of two rows of three"


def test_ablations_are_compared_by_seed():
    whole = scores_of("hsfm", "selection", [0, 1], test=[(9, 16, 27, 36), (9, 18, 27, 36)])
    fixed = scores_of("fixed_support", "selection", [0, 1], test=[(5, 10, 27, 36), (7, 14, 27, 36)])
    scores = pd.concat([whole, fixed], ignore_index=True)
    summary = report.summarize_ablations(scores).set_index("method")
    assert summary.loc["fixed_support", "worst_group_difference"] == pytest.approx(-25)
    assert summary.loc["fixed_support", "worst_group_difference_deviation"] == pytest.approx(np.std([30, 20], ddof=1))
    text = report.ablations_table(summary.reset_index(), scores).markdown()
    assert "| toy | HSFM | 85.0 ± 7.1 |  | 89.0 ± 1.4 |" in text
    assert "| toy | support not edited (K_H = 0) | 60.0 ± 14.1 | -25.0 ± 7.1 | 81.0 ± 4.2 |" in text


def bias_frame(lead: float = 0.1) -> pd.DataFrame:
    """Two runs whose worst groups are 0.1 apart; draws differ by 0.01, and HSFM's by a bit more."""
    rows = []
    for agreement, run, draw, method in itertools.product((0.5, 0.9), range(2), range(4), METHODS):
        start = {"erm": 0.5, "llr": 0.7, "dfr": 0.85, "hsfm": 0.7 + lead, "hsfm_capped": 0.75}[method]
        wobble = 0.0 if method == "erm" else 0.1 * run + 0.01 * draw + (0.001 * draw if method == "hsfm" else 0)
        row = {"method": method, "sees": f"what {method} sees", "agreement": agreement, "draw": draw, "run": run}
        rows.append({**row, "n_minority": round(100 * (1 - agreement)), "test_worst_group": start + wobble})
    return pd.DataFrame(rows).assign(dataset="birds", n=100, test_average=0.95, branch="", left_out="")


def test_bias_differences_are_paired_by_run_and_draw():
    frame = bias_frame()
    again = pd.concat([frame, frame[frame["method"] == "erm"]])  # as it stands in every file
    summary = report.summarize_bias(again).set_index(["agreement", "method"])
    row = summary.loc[(0.9, "hsfm")]
    assert row["over_llr_percent"] == pytest.approx(10.15)
    assert row["over_dfr_percent"] == pytest.approx(-4.85)
    deviation = 100 * np.std([0, 0.001, 0.002, 0.003]) * np.sqrt(8 / 6)  # about two means
    assert row["over_dfr_error"] == pytest.approx(deviation / np.sqrt(8))
    assert row["test_worst_group_error"] == pytest.approx(11 * deviation / np.sqrt(8)), "not the runs' difference"
    assert (row["runs"], row["draws"]) == (2, 4)
    assert summary.loc[(0.9, "erm"), "n_minority"] == 10
    assert np.isnan(summary.loc[(0.9, "erm"), "test_worst_group_error"]), "one head, whatever the draw"
    fewer = report.summarize_bias(frame[(frame["method"] != "hsfm") | (frame["draw"] < 2)])
    assert fewer.set_index(["agreement", "method"]).loc[(0.9, "hsfm"), "over_llr_percent"] == pytest.approx(10.05)


def test_the_bias_table_for_readers():
    frame = bias_frame()
    frame.loc[frame["method"] == "llr", "branch"] = np.where(frame.loc[frame["method"] == "llr", "draw"] > 0, "a", "b")
    lost = (frame["method"] == "hsfm") & (frame["agreement"] == 0.9) & (frame["draw"] == 3)
    frame.loc[lost, ["test_worst_group", "left_out"]] = [np.nan, "one image"]
    text = report.bias_table(report.summarize_bias(frame)).markdown()
    lines = [line for line in text.splitlines() if line.startswith("| birds")]
    assert lines[2] == "| birds | worst group | DFR | what dfr sees | 91.5 ± 0.5 | 91.5 ± 0.5 |"
    assert lines[6].startswith("| birds | less DFR's | LLR | what llr sees | -15.0 ± 0.0 |")
    assert lines[7].endswith("| -4.9 ± 0.0 | - |"), "not a mean of those that are left"
    assert "birds, HSFM at 90 %: no number. one image" in text
    assert "birds: subsamples of 100 images; of a minority are 50 at 50 %, 10 at 90 %." in text
    assert "birds, LLR, branch by draws: a 6, b 2 at 50 %; a 6, b 2 at 90 %." in text
    assert "over draws (4 on each of 2 backbone runs)" in text


def test_the_bias_figure():
    figure = figures.draw_bias(report.summarize_bias(bias_frame()), "a title")
    levels, differences = figure.axes
    line = next(x for x in levels.get_lines() if x.get_label() == "DFR")
    assert line.get_xdata().tolist() == [50, 90]
    assert line.get_ydata().tolist() == pytest.approx([91.5, 91.5])
    line = next(x for x in differences.get_lines() if x.get_label() == "HSFM")
    assert line.get_ydata().tolist() == pytest.approx([-4.85, -4.85])
    figure.canvas.draw()


def test_a_setting_that_diverged_is_said_and_never_best():
    frame = sweep_frame(seeds=(0, 1))
    worst = (frame["setting"] == 1) & (frame["seed"] == 1)
    measures = [name for name in frame if name.startswith(("val_", "test_"))]
    frame.loc[worst, measures] = np.nan
    summary = report.summarize_sweep(frame).set_index(["rule", "choice"])
    assert summary.loc[("worst_group", "best on validation"), "setting"] == 2
    text = report.sweep_table(summary.reset_index()).markdown()
    assert "over the 2 settings that did not diverge" in text
    assert "median 87.5." in text


def test_each_row_of_a_study_is_made_from_its_dataset():
    both = [bias_frame().assign(dataset=name, file=f"{name}.parquet") for name in ("birds", "fish")]
    _, text = report.tabulate("validation_bias", pd.concat(both, ignore_index=True), NONE_LEFT_OUT)
    assert text.made_from == tuple((f"{row[0].text}.parquet",) for row in text.rows)
