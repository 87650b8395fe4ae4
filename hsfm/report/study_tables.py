"""Tables of the studies: data frames in, text out. Knows no torch."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd

from hsfm.core.text_tables import TextTable, percent, signed
from hsfm.heads.known_methods import found
from hsfm.heads.method_settings import Rule
from hsfm.report.names import method_label
from hsfm.report.tables import (
    GROUP_LABELS,
    METRICS,
    aggregate,
    beginnings,
    choice_notes,
    files_of,
    in_percent,
    left_out_notes,
    spread_note,
    summarize,
)

SPREAD = {"lowest": "min", "median": "median", "highest": "max"}  # over settings
RULES = {"worst_group": "worst group", "worst_class": "worst class (no group labels)"}
SELECTED_BY = {rule: METRICS.get(rule, "worst inferred group") for rule in get_args(Rule) if rule != "worst_value"}
VARIANTS = {
    "hsfm": "HSFM",
    "fixed_support": "support not edited (K_H = 0)",
    "random_outer_set": "random instead of hard validation images",
    "hard_set_once": "validation images chosen once, at the start",
    "first_order": "first-order meta-gradient",
    "unbalanced_support": "support drawn without class balance",
    "unbounded_edits": "edits of any length",
}
REFERENCES = ("dfr", "llr", "cb_llr")  # of the validation-bias study
SWEEP = {  # columns of a sweep that are no settings
    *("dataset", "run", "setting", "seed", "rule", "val_average", "val_worst_group", "val_worst_class"),
    *("test_average", "test_worst_group", "test_worst_class", "kept_epoch", "moved", "file"),
}


def tabulate(study: str, rows: pd.DataFrame, left_out: pd.DataFrame) -> tuple[pd.DataFrame, TextTable]:
    """The numbers and the text of one study's table.

    rows: of the study, with a column `file`. left_out: dataset, method and reason of rows that are not there.
    """
    if study == "selection":
        summary = summarize_selection(rows)
        text = selection_table(summary, rows, left_out)
    elif study == "sweep":
        summary = summarize_sweep(rows)
        text = sweep_table(summary)
    elif study == "ablations":
        summary = summarize_ablations(rows)
        text = ablations_table(summary, rows)
    else:
        summary = summarize_bias(rows)
        text = bias_table(summary)
    datasets = pd.DataFrame({"dataset": [row[0].text for row in text.rows]})
    return summary, replace(text, made_from=text.made_from or files_of(rows, datasets), sectioned=True)


def _paired(values: pd.Series, other: pd.Series, name: str) -> dict[str, float]:
    """Mean and deviation in points of a difference over pairs of the same index, whose first level is run."""
    found = in_percent((values.astype(float) - other.astype(float)).rename(name).reset_index(), [name])
    return {name: found[f"{name}_percent"], f"{name}_deviation": found[f"{name}_deviation"]}


# Selection ------------------------------------------------------------------------------------------------------------


def summarize_selection(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset and method: mean and deviation of test worst group and average, in percent, by each rule.

    scores: as `hsfm.analysis.selection.select_heads` makes them; those without a rule, of ERM, count under each.
    group_labels: their use by the rule that uses most. without_labels: points of worst group by the worst class less
    those by the worst group, with the deviation, over pairs of the same run and seed.
    """
    by_rule = {rule: scores[scores["rule"].isna() | (scores["rule"] == rule)] for rule in SELECTED_BY}
    each = pd.concat([summarize(own).assign(rule=rule) for rule, own in by_rule.items()])
    rows = []
    for dataset, of_dataset in each.groupby("dataset", sort=False):
        for method, part in of_dataset.groupby("method", sort=False):
            labels = max(part["group_labels"], key=list(GROUP_LABELS).index)
            row = {"dataset": dataset, "method": method, "group_labels": labels, "runs": part["run"].nunique()}
            row["seeds"] = part.groupby("run")["seed"].nunique().max()
            for rule in SELECTED_BY:
                own = in_percent(part[part["rule"] == rule], ["worst_group", "average"])
                row |= {f"by_{rule}_{name}": value for name, value in own.items()}
            worst = part.pivot(index=["run", "seed"], columns="rule", values="worst_group").reindex(
                columns=list(SELECTED_BY)
            )
            rows.append(row | _paired(worst["worst_class"], worst["worst_group"], "without_labels"))
    return pd.DataFrame(rows)


def selection_table(summary: pd.DataFrame, scores: pd.DataFrame, left_out: pd.DataFrame) -> TextTable:
    """The rows of `summarize_selection` for readers."""
    columns = [
        ("Dataset", "dataset"),
        ("Method", lambda row: method_label(row["method"])),
        ("Group labels", lambda row: GROUP_LABELS[row["group_labels"]]),
        *(
            (f"by {words}: {METRICS[metric]}", _accuracy(f"by_{rule}_{metric}"))
            for rule, words in SELECTED_BY.items()
            for metric in ("worst_group", "average")
        ),
        ("worst class - worst group", lambda row: signed(row["without_labels"], row["without_labels_deviation"])),
    ]
    on_images = ", ".join(method.label for method in found().values() if method.images)
    notes = (
        "Test accuracy in percent of heads whose epoch or setting validation picks by its worst group, worst class, "
        "average or worst inferred group. The last column is in points of test worst group, paired by backbone and "
        "seed: above 0 the worst class picked better. " + spread_note(summary),
        "Group labels: their use under the worst group; `val, to select` is no use of any under the other rules. "
        "A method that nothing is picked for, and one with a rule of its own, has the same heads under all.",
        f"Left out: methods that are trained on images ({on_images}).",
        *left_out_notes(left_out),
        *choice_notes(scores)[1:],  # about single heads
    )
    made_from = files_of(scores, summary[["dataset", "method"]])
    title = "Every method under every rule of selection."
    return TextTable.of(summary, columns, notes=notes, text_columns=3, made_from=made_from, title=title)


# Sweep ----------------------------------------------------------------------------------------------------------------


def swept_in(columns: Iterable[str]) -> list[str]:
    """The settings among the columns of a sweep."""
    return [name for name in columns if name not in SWEEP]


def summarize_sweep(sweep: pd.DataFrame) -> pd.DataFrame:
    """Per dataset and rule the setting as configured (number 0) and the best on validation, with their test accuracies.

    sweep: as `analysis.sweep.sweep_settings` makes it, with columns dataset and run. The best has the highest mean over
    runs and seeds of the validation measure that the rule names; a tie goes to the higher validation average, then to
    the lower number. Test accuracies play no part in it. A setting of which one run diverged is no candidate.
    """
    rows, swept = [], swept_in(sweep.columns)
    tests = [name for name in sweep if name.startswith("test_")]
    for dataset, rule in itertools.product(sweep["dataset"].unique(), RULES):
        part = sweep[(sweep["dataset"] == dataset) & (sweep["rule"] == rule)]
        if part.empty:  # no groups to pick by
            continue
        measures = [f"val_{rule}", "val_average", "test_worst_group"]
        means = part.groupby("setting")[measures].agg(lambda values: values.mean(skipna=False))
        best = means.sort_values(measures[:2], ascending=False, kind="stable").index[0]
        each = 100 * means["test_worst_group"]
        for choice, number in (("as configured", 0), ("best on validation", best)):
            chosen = part[part["setting"] == number]
            row = {"dataset": dataset, "rule": rule, "choice": choice, "setting": number}
            row["settings"] = means["val_average"].count()  # that did not diverge
            row |= chosen[swept].iloc[0].to_dict()
            row |= {"val_percent": 100 * means.loc[number, f"val_{rule}"], **in_percent(chosen, tests)}
            row |= {f"test_worst_group_{name}": getattr(each, of)() for name, of in SPREAD.items()}
            rows.append({**row, "runs": part["run"].nunique(), "seeds": part["seed"].nunique()})
    return pd.DataFrame(rows).astype(sweep.dtypes[swept].to_dict())


def sweep_table(summary: pd.DataFrame) -> TextTable:
    """The rows of `summarize_sweep` for readers."""
    names = list(summary.columns)
    swept = names[names.index("settings") + 1 : names.index("val_percent")]
    columns = [
        ("Dataset", "dataset"),
        ("Epoch and setting by", lambda row: RULES[row["rule"]]),
        ("Setting", "choice"),
        *((name, lambda row, name=name: f"{row[name]:g}") for name in swept),
        ("val", lambda row: f"{row['val_percent']:.1f}"),
        *((f"test: {METRICS[m]}", _accuracy(f"test_{m}")) for m in ("worst_group", "average", "worst_class")),
    ]
    notes = [
        "The rule picks the epoch of every run and, by its mean over runs and seeds, the setting; both on validation. "
        "`val` is that measure. Test accuracies choose nothing. " + spread_note(summary)
    ]
    known = summary.dropna(subset="test_worst_group_median")
    for row in known.drop_duplicates(["dataset", "rule"]).to_dict("records"):
        lowest, median, highest = (f"{row[f'test_worst_group_{name}']:.1f}" for name in SPREAD)
        notes.append(
            f"{row['dataset']}, {RULES[row['rule']]}: over the {row['settings']} settings that did not diverge the "
            f"test worst group is between {lowest} and {highest}, median {median}."
        )
    return TextTable.of(summary, columns, notes=tuple(notes), text_columns=3, title="HSFM's settings.")


def _accuracy(name: str) -> Callable[[dict], str]:
    """A column of an accuracy with its deviation."""
    return lambda row: percent(row[f"{name}_percent"], row[f"{name}_deviation"])


# Ablations ------------------------------------------------------------------------------------------------------------


def summarize_ablations(scores: pd.DataFrame) -> pd.DataFrame:
    """`hsfm.report.tables.aggregate` of scores whose method is a variant, and the difference of each to HSFM.

    worst_group_difference and its deviation, in points, are over pairs of the same run and seed.
    """
    summary = summarize(scores)
    aggregated = aggregate(summary)
    worst = summary.set_index(["dataset", "method", "run", "seed"])["worst_group"].sort_index()
    return aggregated.join(
        pd.DataFrame(
            _paired(worst[dataset, method], worst[dataset, "hsfm"], "worst_group_difference")
            for dataset, method in zip(aggregated["dataset"], aggregated["method"], strict=True)
        )
    )


def ablations_table(summary: pd.DataFrame, scores: pd.DataFrame) -> TextTable:
    """The rows of `summarize_ablations` for readers."""
    differences = map(signed, summary["worst_group_difference"], summary["worst_group_difference_deviation"])
    rows = summary.assign(difference=list(differences))
    rows.loc[rows["method"] == "hsfm", "difference"] = ""
    columns = [
        ("Dataset", "dataset"),
        ("Variant", lambda row: VARIANTS[row["method"]]),
        ("worst group", _accuracy("worst_group")),
        ("difference", "difference"),
        ("average", _accuracy("average")),
    ]
    notes = (
        "HSFM with one part at a time changed; test accuracy in percent. The difference is in points of worst group, "
        "paired by backbone and seed. " + spread_note(summary),
        *choice_notes(scores, VARIANTS.__getitem__),
    )
    return TextTable.of(rows, columns, notes=notes, title="HSFM with one part changed.")


# Validation bias ------------------------------------------------------------------------------------------------------


def summarize_bias(bias: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset, agreement and method: test worst group and average in percent, with their standard errors.

    bias: as `hsfm.analysis.validation_bias.measure_validation_bias` makes it, with columns dataset and run; a row that
    stands there twice, as ERM's does in every file, counts once. over_dfr, over_llr and over_cb_llr: the worst group's
    difference to these in points, over pairs of a run and draw. Errors are over draws about the mean of their run.
    Where a draw could not be fitted there is no number, and left_out says why. branches: which a method took, and in
    how many draws.
    """
    keys = ["dataset", "run", "method", "agreement", "draw"]
    bias, rows = bias.drop_duplicates(keys), []
    for (dataset, agreement), part in bias.groupby(["dataset", "agreement"], sort=False):
        by_method = {m: of.set_index(["run", "draw"]).sort_index() for m, of in part.groupby("method", sort=False)}
        for method, of in by_method.items():
            row = {"dataset": dataset, "agreement": agreement, "method": method}
            row |= {name: next(filter(None, of[name]), "") for name in ("sees", "left_out")}
            row |= {name: round(of[name].mean()) for name in ("n", "n_minority")}
            row |= {"runs": part["run"].nunique(), "draws": of.groupby("run").size().max()}
            row["branches"] = ", ".join(f"{b} {n}" for b, n in of["branch"].value_counts().items() if b)
            for measure in ("test_average", "test_worst_group"):
                row |= _over_draws(of[measure], measure)
            for other in REFERENCES:
                pairs = of.index.intersection(by_method[other].index) if other in by_method else []
                if len(pairs) and method != other:
                    worst, reference = (one.loc[pairs, "test_worst_group"] for one in (of, by_method[other]))
                    row |= _over_draws(worst - reference, f"over_{other}")
            if method == "erm":  # one head, whatever the draw
                row |= {"test_average_error": np.nan, "test_worst_group_error": np.nan}
            rows.append(row)
    return pd.DataFrame(rows)


def _over_draws(values: pd.Series, name: str) -> dict[str, float]:
    """Mean and standard error, in percent, of values by run and draw; none where a value is not there."""
    values = 100 * values.astype(float)
    within = values - values.groupby("run").transform("mean")
    free = len(values) - values.index.get_level_values("run").nunique()
    error = np.sqrt((within**2).sum() / free / len(values)) if free else np.nan
    return {f"{name}_percent": values.mean(skipna=False), f"{name}_error": error if values.notna().all() else np.nan}


def bias_table(summary: pd.DataFrame) -> TextTable:
    """Two blocks per dataset, a row per method: test worst group by agreement, and its difference to DFR's."""
    shares, rows = sorted(summary["agreement"].unique()), []
    for dataset, of_dataset in summary.groupby("dataset", sort=False):
        for measure, words, show in (("test_worst_group", "worst group", percent), ("over_dfr", "less DFR's", signed)):
            for method, part in of_dataset.groupby("method", sort=False):
                if measure == "over_dfr" and method == "dfr":
                    continue
                by_share = part.set_index("agreement").reindex(shares)
                by_share = by_share.reindex(columns=[f"{measure}_percent", f"{measure}_error"])
                cells = itertools.starmap(show, by_share.itertuples(index=False))
                sees = next(filter(None, part["sees"]), "")
                row = {"Dataset": dataset, "Test": words, "Method": method_label(method), "Sees of validation": sees}
                rows.append(row | {f"{100 * share:g} %": cell for share, cell in zip(shares, cells, strict=True)})
    rows = pd.DataFrame(rows)
    notes = [
        "Test worst group in percent after fitting on subsamples of validation of one size, by their share of majority "
        "images, and its difference to that of DFR, which is given all group labels of them, in points over the same "
        f"draws. Mean ± standard error over draws ({_counts(summary)}), which share images: it is about the draw, not "
        "about the validation or test split.",
        *_bias_notes(summary),
    ]
    if "hsfm_capped" in set(summary["method"]):
        notes.append("K_hard capped: at most as many hard images per class as there are true minority images.")
    parted = beginnings(rows["Dataset"], rows["Test"])
    title = "Test worst group by the bias of validation."
    return TextTable.of(rows, notes=tuple(notes), text_columns=4, title=title, parted=parted)


def _counts(summary: pd.DataFrame) -> str:
    draws, runs = summary["draws"].unique(), summary["runs"].max()
    of_runs = f" on each of {runs} backbone runs" if runs > 1 else ""
    return f"{draws.min()} to {draws.max()}{of_runs}" if len(draws) > 1 else f"{draws[0]}{of_runs}"


def _bias_notes(summary: pd.DataFrame) -> Iterable[str]:
    """Sizes of the subsamples, branches that were taken, and what could not be fitted."""
    for dataset, part in summary.groupby("dataset", sort=False):
        each = part.drop_duplicates("agreement")
        minority = ", ".join(f"{row.n_minority} at {100 * row.agreement:g} %" for row in each.itertuples())
        yield f"{dataset}: subsamples of {each['n'].iloc[0]} images; of a minority are {minority}."
        for method, own in part[part["branches"] != ""].groupby("method", sort=False):
            taken = "; ".join(f"{row.branches} at {100 * row.agreement:g} %" for row in own.itertuples())
            yield f"{dataset}, {method_label(method)}, branch by draws: {taken}."
        for row in part[part["left_out"] != ""].itertuples():
            yield f"{dataset}, {method_label(row.method)} at {100 * row.agreement:g} %: no number. {row.left_out}"
