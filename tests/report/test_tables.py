import dataclasses
import itertools
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from hsfm.core.text_tables import Cell, TextTable, write_tables
from hsfm.report import tables
from tests.latex_structure import check_latex
from tests.report.test_accuracy_tables import NONE_LEFT_OUT


def scores(method, labels, seeds, *, run=0, test=None, dataset="toy", times=10) -> pd.DataFrame:
    """Scores of two classes and two attributes.

    test: per seed, the correct counts of four groups of 10, 20, 30, 40 images; times: each so often.
    """
    rows = []
    for seed, correct in zip(seeds, test, strict=True):
        for split, sizes in (("train", (70, 10, 10, 110)), ("val", (5, 5, 5, 5)), ("test", (10, 20, 30, 40))):
            for group, size in enumerate(sizes):
                n = size * times if split == "test" else size
                hits = correct[group] * times if split == "test" else n
                rows.append((seed, split, group, f"{'ab'[group // 2]}, {'xy'[group % 2]}", n, hits))
    frame = pd.DataFrame(rows, columns=["seed", "split", "group", "group_name", "n", "correct"])
    return frame.assign(
        dataset=dataset, run=run, method=method, group_labels=labels, chosen_by=f"the rule of {method}", remark="",
        y=frame["group"] // 2, attribute=frame["group"] % 2,
        accuracy=frame["correct"] / frame["n"].where(frame["n"] > 0),
        file=f"results/{dataset}/run{run}/{method}/scores.parquet",
    )  # fmt: skip


def aggregated(frame: pd.DataFrame, told_apart: bool = True) -> pd.DataFrame:
    """Of scores, as if test images told all methods apart, or none."""
    table = tables.in_blocks(tables.aggregate(tables.summarize(frame)))
    for metric, (mark, among) in itertools.product(
        tables.METRICS, (("best", 0 * tables.blocks(table)), ("best_of_block", tables.blocks(table)))
    ):
        shown = table[f"{metric}_percent"].round(1)
        best = shown.groupby([table["dataset"], among]).transform("max")
        table[f"{metric}_{mark}"] = (shown == best) | (not told_apart)
        table[f"{metric}_low"], table[f"{metric}_high"] = shown - 10, shown + 10
    return table


def main_table(frame: pd.DataFrame, **settings) -> TextTable:
    return tables.main_table(aggregated(frame, **settings), frame, NONE_LEFT_OUT)


def groups_text(frame: pd.DataFrame) -> TextTable:
    return tables.groups_text(tables.group_table(frame), frame)


@pytest.fixture
def three_methods() -> pd.DataFrame:
    return pd.concat(
        [
            scores("erm", "none", [0], test=[(10, 10, 15, 40)]),
            scores("dfr", "training", [0, 1], test=[(9, 18, 27, 36), (10, 18, 27, 36)]),
            scores("hsfm", "selection", [0, 1], test=[(8, 18, 27, 38), (8, 18, 27, 36)]),
        ],
        ignore_index=True,
    )


def test_held_out_accuracy_is_of_the_worst_group_and_its_error_of_the_images(three_methods):
    """Two heads were asked about each of 5 images of a group."""
    rows = three_methods[(three_methods["method"] == "hsfm") & (three_methods["split"] == "val")]
    asked = rows[rows["seed"] == 0].assign(split="held_out", n=10, correct=[9, 8, 10, 10])
    found = tables.held_out(pd.concat([three_methods, asked]))
    assert found["method"].tolist() == ["hsfm"]
    assert found[["held_out_percent", "held_out_error"]].iloc[0].tolist() == pytest.approx(
        [80, 100 * (0.8 * 0.2 / 5) ** 0.5]
    )
    classes = pd.concat([three_methods, asked]).assign(group=pd.NA, attribute=pd.NA)
    classes = classes.drop_duplicates(["method", "seed", "split", "y"])
    assert tables.held_out(classes)["held_out_percent"].tolist() == [90]
    few = pd.concat([three_methods, asked]).assign(min_group=6)
    assert tables.held_out(few).empty


def test_summary_by_hand(three_methods):
    erm = tables.summarize(three_methods).set_index(["method", "seed"]).loc[("erm", 0)]
    assert erm["average"] == pytest.approx(75 / 100)
    assert erm["worst_group"] == pytest.approx(0.5)
    assert erm["adjusted_average"] == pytest.approx((70 * 1.0 + 10 * 0.5 + 10 * 0.5 + 110 * 1.0) / 200)
    assert erm["worst_class"] == pytest.approx(20 / 30)


def test_groups_without_test_images_are_left_out_and_said(three_methods):
    empty = (three_methods["split"] == "test") & (three_methods["group"] == 2)
    three_methods.loc[empty, ["n", "correct", "accuracy"]] = [0, 0, np.nan]
    summary = tables.summarize(three_methods).set_index(["method", "seed"])
    assert summary.loc[("erm", 0), "worst_group"] == pytest.approx(0.5)
    assert summary.loc[("hsfm", 0), "average"] == pytest.approx(64 / 70)
    text = main_table(three_methods).markdown()
    assert "Without test images and left out: b, x." in text
    assert "no test image" in groups_text(three_methods).markdown()


def test_adjusted_average_is_empty_where_a_test_group_was_not_trained_on(three_methods):
    untrained = (three_methods["split"] == "train") & (three_methods["group"] == 1)
    three_methods.loc[untrained, ["n", "correct", "accuracy"]] = [0, 0, np.nan]
    table = aggregated(three_methods)
    assert table["adjusted_average_percent"].isna().all()
    assert "| - |" in tables.metrics_table(table, three_methods).markdown()


def test_unknown_groups_leave_class_and_average(three_methods):
    unknown = three_methods.assign(group=pd.NA, attribute=pd.NA)
    summary = tables.summarize(unknown)
    assert summary["worst_group"].isna().all()
    assert summary["adjusted_average"].isna().all()
    assert summary["average"].notna().all()
    assert summary["worst_class"].notna().all()


def test_deviation_over_seeds_of_one_run(three_methods):
    row = tables.aggregate(tables.summarize(three_methods)).set_index("method").loc["hsfm"]
    assert row["average_percent"] == pytest.approx(90.0)
    assert row["average_deviation"] == pytest.approx(np.std([91, 89], ddof=1))


def test_deviation_over_runs_of_the_mean_over_seeds():
    frame = pd.concat(
        [
            scores("dfr", "training", [0, 1], run=0, test=[(10, 20, 30, 40), (10, 20, 30, 30)]),
            scores("dfr", "training", [0, 1], run=1, test=[(10, 20, 30, 20), (10, 20, 30, 20)]),
        ]
    )
    table = tables.aggregate(tables.summarize(frame))
    assert table.loc[0, "average_percent"] == pytest.approx((95 + 80) / 2)
    assert table.loc[0, "average_deviation"] == pytest.approx(np.std([95, 80], ddof=1))
    assert "over 2 backbone runs, each the mean of its head seeds (at most 2)." in main_table(frame).markdown()


def test_the_best_of_each_block_is_bold_and_the_best_of_all_underlined(three_methods):
    llr = scores("llr", "none", [0], test=[(9, 10, 15, 40)])
    table = main_table(pd.concat([three_methods, llr], ignore_index=True))
    erm, llr, hsfm, dfr = ([cell.markdown() for cell in row] for row in table.rows)
    assert erm == ["ERM", "no", "**50.0**", "**75.0**"]
    assert llr == ["LLR", "no", "**50.0**", "74.0"]
    assert hsfm == ["HSFM", "val, to select", "**80.0 ± 0.0**", "**90.0 ± 1.4**"]
    assert dfr == ["DFR", "val, to train", "**<u>90.0 ± 0.0</u>**", "**<u>90.5 ± 0.7</u>**"]
    assert "the smallest test group (a, x) has 100 images; one image is 1.00 points." in table.markdown()
    latex = table.latex("tab:main")
    assert r"\textbf{\underline{90.5 $\pm$ 0.7}}" in latex
    assert r"\textbf{90.0 $\pm$ 1.4}" in latex


def test_accuracies_on_few_images_are_shown_with_their_intervals():
    """Also the best ones; where no group is small there are none."""
    two = [("erm", "none", [0], [(10, 10, 15, 40)]), ("dfr", "training", [0, 1], [(9, 18, 27, 36), (10, 18, 27, 36)])]
    few = pd.concat([scores(*one, test=test, times=4) for *one, test in two], ignore_index=True)
    assert [row[2].markdown() for row in main_table(few).rows] == [
        "**50.0 [40 to 60]**", "**<u>90.0 ± 0.0 [80 to 100]</u>**"
    ]  # fmt: skip
    text = main_table(few).markdown()
    assert "In brackets: the 95 % interval" in text
    assert "(a, x) has 40 images; one image is 2.50 points. That is few" in text
    assert [row[4].text for row in groups_text(few).rows] == ["40 (few)", "80", "120", "160"]
    assert [row[-1].text for row in tables.metrics_table(aggregated(few), few).rows] == ["66.7", "90.0 ± 0.0"]
    enough = few.assign(n=few["n"] * 10, correct=few["correct"] * 10)
    assert "[" not in "".join(cell.text for row in main_table(enough).rows for cell in row)


def test_what_test_images_do_not_tell_from_the_best_is_marked_with_it(three_methods):
    rows = main_table(three_methods, told_apart=False).rows
    assert [row[2].markdown() for row in rows] == [
        "**<u>50.0</u>**", "**<u>80.0 ± 0.0</u>**", "**<u>90.0 ± 0.0</u>**"
    ]  # fmt: skip


def test_blocks_are_parted_in_the_order_of_the_configuration(three_methods):
    """By a method's most demanding use on any dataset; in LaTeX and HTML by a rule, in Markdown by an empty row."""
    frame = pd.concat(
        [
            scores("both", "both", [0], test=[(9, 9, 9, 9)]),
            three_methods,
            scores("llr", "none", [0], test=[(9, 9, 9, 9)]),
            scores("llr", "none", [0], test=[(9, 9, 9, 9)], dataset="other"),
            scores("dfr", "none", [0], test=[(9, 9, 9, 9)], dataset="other"),
            scores("afr", "none", [0], test=[(9, 9, 9, 9)], dataset="other"),
        ],
        ignore_index=True,
    )
    table = main_table(frame)
    assert [row[0].text for row in table.rows] == ["ERM", "LLR", "AFR", "HSFM", "both", "DFR"]
    assert table.rows[-1][1].text == "toy: val, to train; other: no"
    first = [line.split("|")[1].strip() for line in table.markdown().splitlines()[2:10]]
    assert first == ["ERM", "LLR", "AFR", "", "HSFM", "", "both", "DFR"]
    check_latex(table.latex("tab:main"))
    lines = table.latex("tab:main").splitlines()
    after = [lines[place + 1].split(" ")[0] for place, line in enumerate(lines) if line == r"\midrule"]
    assert after == ["ERM", "HSFM", "both"]
    page = ElementTree.fromstring(table.html("main"))
    assert [cell.text for cell in page.iter("th")] == [
        "Method", "Group labels", "worst group", "average", "toy", "other"
    ], "a block per dataset instead of columns"  # fmt: skip
    assert [[row[0].text for row in body] for body in page.findall("div/table/tbody")] == [
        ["toy", "ERM", "LLR", "HSFM", "both", "DFR"], ["other", "LLR", "AFR", "DFR"]
    ]  # fmt: skip
    assert [row.get("class") for row in page.find("div/table/tbody")] == [
        "section",
        None,
        None,
        "parted",
        "parted",
        None,
    ]
    metrics = tables.metrics_table(aggregated(frame), frame)
    assert [row[1].text for row in metrics.rows] == ["ERM", "LLR", "HSFM", "both", "DFR", "LLR", "AFR", "DFR"]
    assert metrics.parted == (2, 3, 5, 7), "datasets and blocks"
    assert "**" in metrics.rows[-1][3].markdown(), "the only one of its block, whatever it used on this dataset"
    csv = aggregated(frame).to_csv(index=False).splitlines()
    assert len(csv) == 1 + 8


def test_rows_say_which_files_they_are_grouped_from(three_methods):
    other = scores("erm", "none", [0], run=1, test=[(10, 10, 15, 40)], dataset="other")
    both = pd.concat([three_methods, other], ignore_index=True)
    files = [f"results/toy/run0/{method}/scores.parquet" for method in ("erm", "hsfm", "dfr")]
    of_other = "results/other/run1/erm/scores.parquet"
    assert main_table(both).made_from == ((files[0], of_other), (files[1],), (files[2],))
    assert groups_text(both).made_from == ((files[0], files[2], files[1]),) * 4 + ((of_other,),) * 4
    metrics = tables.metrics_table(aggregated(both), both)
    assert metrics.made_from == ((files[0],), (files[1],), (files[2],), (of_other,))
    assert [row[1].text for row in metrics.rows] == ["ERM", "HSFM", "DFR", "ERM"]


NASTY = r"""a\b {c} #$%&_^~ <x|y> [z] * ± ≤ é "q" \\"""


def test_latex_compiles_whatever_names_hold(three_methods):
    """As far as structure tells; users name classes and attributes."""
    for text in (main_table(three_methods), groups_text(three_methods)):
        check_latex(text.latex("tab:x"))
    cells = (Cell(NASTY, bold=True, underlined=True), Cell("[x"), Cell("* 3"))
    odd = TextTable(header=(NASTY, "[n", "*"), rows=(cells, cells[::-1]), notes=(NASTY, "50 %"), title=NASTY)
    latex = odd.latex("tab:x")
    check_latex(latex)
    assert r"a\textbackslash{}b \{c\} \#\$\%\&\_\textasciicircum{}\textasciitilde{} " in latex
    assert r"$\pm$ $\leq$ é" in latex
    check_latex(TextTable(header=("a", "b"), rows=(), notes=(), title="none").latex("tab:x"))


def test_html_holds_the_same_cells_and_what_they_are_from(three_methods):
    """Well-formed, so that any parser reads it; text of a user's cannot break out of it."""
    table = main_table(three_methods)
    sources = tuple((f"results/{row[0].text}", "b") for row in table.rows)
    odd = dataclasses.replace(table, header=("<Method>", *table.header[1:]), made_from=sources)
    page = ElementTree.fromstring(odd.html("table-main"))
    assert page.attrib == {"class": "table", "id": "table-main"}
    assert [cell.text for cell in page.iter("th")] == list(odd.header)
    assert [cell.get("class") for cell in page.iter("th")] == ["text", "text", "number", "number"]
    assert [["".join(cell.itertext()) for cell in row] for row in page.find("div/table/tbody")] == [
        [cell.text for cell in row] for row in table.rows
    ]
    assert [row.get("data-made-from") for row in page.find("div/table/tbody")] == [
        f"results/{r[0].text} b" for r in table.rows
    ]
    assert page.find("div/table/tbody/tr[2]/td[3]/strong").text == "80.0 ± 0.0"
    assert [note.text for note in page.find("figcaption")] == list(table.notes)
    assert Cell("2 min", order=120.0).html(number=True) == '<td class="number" data-order="120.0">2 min</td>'


def test_files_are_written_by_stem_and_suffix(tmp_path, three_methods):
    groups = tables.group_table(three_methods)
    made = {"groups": (groups, groups_text(three_methods)), "main": (three_methods, main_table(three_methods))}
    write_tables([tmp_path / name for name in ("main.md", "groups.csv", "groups.tex")], made)
    assert (tmp_path / "main.md").read_text() == made["main"][1].markdown()
    assert (tmp_path / "groups.csv").read_text() == groups.to_csv(index=False, float_format="%.4f")
    assert r"\label{tab:groups}" in (tmp_path / "groups.tex").read_text()


def test_group_table(three_methods):
    groups = tables.group_table(three_methods)
    assert groups["group_name"].tolist() == ["a, x", "a, y", "b, x", "b, y"]
    assert groups["n_test"].tolist() == [100, 200, 300, 400]
    assert groups["n_train"].tolist() == [70, 10, 10, 110]
    assert groups["hsfm_percent"].tolist() == pytest.approx([80, 90, 90, 92.5])
    assert [c for c in groups if c.endswith("_percent")] == ["erm_percent", "dfr_percent", "hsfm_percent"]


def test_group_labels_are_those_of_the_head_that_used_most(three_methods):
    """A run in which nothing was left to train on has ERM's head, which used none."""
    two = [
        scores("ddb", labels, [0], run=run, test=[(9, 18, 27, 36)]) for run, labels in enumerate(("none", "training"))
    ]
    both = pd.concat([three_methods, *two], ignore_index=True)
    table = tables.aggregate(tables.summarize(both)).set_index("method")
    assert table.loc["ddb", "group_labels"] == "training"


def test_a_method_that_a_dataset_was_not_given_is_a_dash(three_methods):
    other = scores("erm", "none", [0], test=[(10, 10, 15, 40)], dataset="other")
    both = pd.concat([three_methods, other], ignore_index=True)
    text = main_table(both).markdown()
    row = next(line for line in text.splitlines() if line.startswith("| HSFM"))
    assert row.endswith("| - | - |")
    last = groups_text(both).markdown().splitlines()[9]
    assert last.startswith("| other | b, y |")
    assert last.endswith("| 100.0 | - | - |")


def test_seeds_are_counted_within_a_run():
    """ERM's seed is its run: three runs do not make three heads on one backbone."""
    frame = pd.concat([scores("erm", "none", [run], run=run, test=[(10, 10, 15, 40)]) for run in range(3)])
    table = tables.aggregate(tables.summarize(frame))
    assert table[["runs", "seeds"]].to_numpy().tolist() == [[3, 1]]
    assert "over 3 backbone runs." in main_table(frame).markdown()
    one = frame[frame["run"] == 0]
    text = main_table(one).markdown()
    assert "One head on one backbone run: no deviation." in text


def test_group_labels_are_said_by_dataset_where_they_differ(three_methods):
    other = scores("hsfm", "none", [0], test=[(10, 20, 30, 40)], dataset="other")
    frame = pd.concat([three_methods, other], ignore_index=True)
    table = main_table(frame)
    assert table.rows[1][1].text == "toy: val, to select; other: no"
    assert table.rows[2][1].text == "val, to train"


def test_notes_say_what_picked_the_head_and_which_hardly_moved(three_methods):
    dead = (three_methods["method"] == "hsfm") & (three_methods["seed"] == 1)
    three_methods.loc[dead, "remark"] = "hardly moved from ERM's head"
    text = main_table(three_methods).markdown()
    assert "ERM: the rule of erm; DFR: the rule of dfr; HSFM: the rule of hsfm." in text
    assert "toy, HSFM: hardly moved from ERM's head (run 0 seed 1)." in text
