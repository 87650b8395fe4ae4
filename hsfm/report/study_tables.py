"""Tables of the studies: data frames in, text out. Knows no torch."""

import itertools
from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from hsfm.core.text_tables import TextTable, percent, signed
from hsfm.report.names import method_label
from hsfm.report.tables import (
    METRICS,
    aggregate,
    choice_notes,
    files_of,
    independent,
    size_notes,
    spread_note,
    summarize,
)

SPREAD = {"lowest": "min", "median": "median", "highest": "max"}  # over settings
RULES = {"worst_group": "worst group", "worst_class": "worst class (no group labels)"}
VARIANTS = {
    "hsfm": "HSFM",
    "fixed_support": "support not edited (K_H = 0)",
    "random_outer_set": "random instead of hard validation images",
    "hard_set_once": "validation images chosen once, at the start",
    "first_order": "first-order meta-gradient",
    "unbalanced_support": "support drawn without class balance",
}
OURS = ("hsfm", "hsfm_capped")  # of the validation-bias study
SWEEP_COLUMNS = [
    "dataset", "run", "setting", "seed", "rule", "val_average", "val_worst_group", "val_worst_class",
    "test_average", "test_worst_group", "test_worst_class",
]  # fmt: skip
BIAS_COLUMNS = [
    "dataset", "run", "method", "sees", "agreement", "draw", "n", "n_minority", "test_average", "test_worst_group",
]  # fmt: skip
COLUMNS = {"sweep": SWEEP_COLUMNS, "validation_bias": BIAS_COLUMNS}  # ablations have those of scores
OF_A_TRIAL = ("kept_epoch", "moved", "file")  # what a sweep records beside its settings and accuracies


def columns_of(study: str, path: str) -> list[str]:
    """Columns of a study's results that its table and figure read: of a sweep all settings that were swept, too."""
    return [*COLUMNS[study], *(swept_in(pq.read_schema(path).names) if study == "sweep" else [])]


def swept_in(columns: Iterable[str]) -> list[str]:
    """The settings among the columns of a sweep."""
    others = {*SWEEP_COLUMNS, *OF_A_TRIAL}
    return [name for name in columns if name not in others]


def tabulate(study: str, rows: pd.DataFrame) -> tuple[pd.DataFrame, TextTable]:
    """The numbers and the text of one study's table. rows: of the study, with a column `file`."""
    if study == "sweep":
        summary = summarize_sweep(rows)
        text = sweep_table(summary)
    elif study == "ablations":
        summary = summarize_ablations(rows)
        text = ablations_table(summary, rows)
    else:
        summary = summarize_bias(rows)
        text = bias_table(summary)
    # a row begins with its dataset
    return summary, replace(text, made_from=tuple(files_of(rows, dataset=row[0].text) for row in text.rows))


# Sweep ----------------------------------------------------------------------------------------------------------------


def summarize_sweep(sweep: pd.DataFrame) -> pd.DataFrame:
    """Per dataset and rule the setting as configured (number 0) and the best on validation, with their test accuracies.

    sweep: as `analysis.sweep.sweep_settings` makes it, with columns dataset and run. The best has the highest mean over
    runs and seeds of the validation measure that the rule names; a tie goes to the higher validation average, then to
    the lower number. Test accuracies play no part in it.
    """
    rows, swept = [], swept_in(sweep.columns)
    for dataset, rule in itertools.product(sweep["dataset"].unique(), RULES):
        part = sweep[(sweep["dataset"] == dataset) & (sweep["rule"] == rule)]
        # a setting of which one run diverged is no candidate
        scored = part.groupby("setting")[[f"val_{rule}", "val_average"]].agg(lambda values: values.mean(skipna=False))
        each = part.groupby("setting")["test_worst_group"].agg(lambda values: values.mean(skipna=False))
        grouped = part["test_worst_group"].notna().any()
        if part.empty:  # no groups to pick by
            continue
        best = scored.sort_values([f"val_{rule}", "val_average"], ascending=False, kind="stable").index[0]
        for choice, number in (("as configured", 0), ("best on validation", best)):
            chosen = part[part["setting"] == number]
            rows.append(
                {
                    "dataset": dataset,
                    "rule": rule,
                    "choice": choice,
                    "settings": len(scored),
                    "setting": number,
                    **chosen[swept].iloc[0].to_dict(),
                    "val_percent": 100 * scored.loc[number, f"val_{rule}"],
                    **_test_columns(chosen),
                    **{f"test_worst_group_{name}": 100 * getattr(each, of)() for name, of in SPREAD.items()},
                    "diverged": int(each.isna().sum()) if grouped else 0,
                    "runs": part["run"].nunique(),
                    "seeds": part["seed"].nunique(),
                }
            )
    return pd.DataFrame(rows).astype(sweep.dtypes[swept].to_dict())


def _test_columns(part: pd.DataFrame) -> dict[str, float]:
    """Mean and deviation in percent of every test measure."""
    names = [name for name in part.columns if name.startswith("test_")]
    values = independent(part, names)
    return {
        f"{name}_{what}": 100 * number
        for name in names
        for what, number in (("percent", values[name].mean()), ("deviation", values[name].std(ddof=1)))
    }


def sweep_table(summary: pd.DataFrame) -> TextTable:
    """The rows of `summarize_sweep` for readers."""
    names = list(summary.columns)
    swept = names[names.index("setting") + 1 : names.index("val_percent")]
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
            f"{row['dataset']}, {RULES[row['rule']]}: over all {row['settings']} settings the test worst group is "
            f"between {lowest} and {highest}, median {median}."
            + (f" {row['diverged']} settings diverged." if row["diverged"] else "")
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
    for dataset, part in summary.groupby("dataset", sort=False):
        whole = part[part["method"] == "hsfm"].set_index(["run", "seed"])["worst_group"]
        for method, variant in part.groupby("method", sort=False):
            pairs = variant.set_index(["run", "seed"])["worst_group"].astype(float) - whole.astype(float)
            values = independent(pairs.rename("difference").reset_index(), ["difference"])["difference"]
            row = (aggregated["dataset"] == dataset) & (aggregated["method"] == method)
            aggregated.loc[row, "worst_group_difference"] = 100 * values.mean()
            aggregated.loc[row, "worst_group_difference_deviation"] = 100 * values.std(ddof=1)
    return aggregated


def ablations_table(summary: pd.DataFrame, scores: pd.DataFrame) -> TextTable:
    """The rows of `summarize_ablations` for readers."""

    def difference(row: dict) -> str:
        both = row["worst_group_difference"], row["worst_group_difference_deviation"]
        return "" if row["method"] == "hsfm" else signed(*both)

    columns = [
        ("Dataset", "dataset"),
        ("Variant", lambda row: VARIANTS[row["method"]]),
        ("worst group", _accuracy("worst_group")),
        ("difference", difference),
        ("average", _accuracy("average")),
    ]
    notes = (
        "HSFM with one part at a time changed; test accuracy in percent. The difference is in points of worst group, "
        "paired by backbone and seed. " + spread_note(summary),
        *choice_notes(scores, VARIANTS.__getitem__),
        *size_notes(scores),
    )
    return TextTable.of(summary, columns, notes=notes, title="HSFM with one part changed.")


# Validation bias ------------------------------------------------------------------------------------------------------


def summarize_bias(bias: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset, agreement and method: mean and deviation of test worst group and average, in percent.

    bias: as `hsfm.analysis.validation_bias.measure_validation_bias` makes it, with columns dataset and run. The columns
    `gain` and `over_control` are the worst group's differences to ERM and to LLR in points, with deviations, over pairs
    of the same run and draw.
    """
    rows = []
    for (dataset, agreement), part in bias.groupby(["dataset", "agreement"], sort=False):
        by_method = {m: of.set_index(["run", "draw"]).sort_index() for m, of in part.groupby("method", sort=False)}
        for method, of in by_method.items():
            row = {
                "dataset": dataset,
                "agreement": agreement,
                "method": method,
                "sees": of["sees"].iloc[0],
                "n": round(of["n"].mean()),
                "n_minority": round(of["n_minority"].mean()),
                **_test_columns(of.reset_index() if method != "erm" else of.groupby("run").head(1).reset_index()),
                "runs": part["run"].nunique(),
                "draws": part["draw"].nunique(),
            }
            for name, other in (("gain", "erm"), ("over_control", "llr")):
                pairs = (of["test_worst_group"] - by_method[other]["test_worst_group"]).rename(name).reset_index()
                values = independent(pairs, [name])[name]
                row |= {name: 100 * values.mean(), f"{name}_deviation": 100 * values.std(ddof=1)}
            rows.append(row)
    return pd.DataFrame(rows)


def bias_table(summary: pd.DataFrame) -> TextTable:
    """A row per dataset and agreement: test worst group of each method, and HSFM's lead over the control."""
    texts = summary.assign(
        label=summary["method"].map(method_label),
        text=list(map(percent, summary["test_worst_group_percent"], summary["test_worst_group_deviation"])),
        lead=list(map(signed, summary["over_control"], summary["over_control_deviation"])),
    ).set_index(["dataset", "agreement"])
    rows = pd.DataFrame(index=texts.index.unique()).reset_index()
    rows = rows.set_axis(["Dataset", "Agreement (%)"], axis=1)
    rows["Agreement (%)"] = (100 * rows["Agreement (%)"]).map("{:g}".format)
    rows["n"] = [
        f"{part['n'].iloc[0]} ({part['n_minority'].iloc[0]})" for _, part in texts.groupby(level=[0, 1], sort=False)
    ]
    for label, part in texts.groupby("label", sort=False):
        rows[label] = part["text"].tolist()
    for method in OURS:
        rows[f"{method_label(method)} - LLR"] = texts.loc[texts["method"] == method, "lead"].tolist()
    sees = summary.groupby("method", sort=False)["sees"].unique()
    notes = (
        "Test worst group in percent after fitting on subsamples of validation of one size, whose share of majority "
        "images is the agreement; n counts all images and, in brackets, those of minority groups. "
        "Of validation each method sees: "
        + "; ".join(f"{method_label(m)} {' or '.join(seen)}" for m, seen in sees.items())
        + ". LLR and DFR choose C on every subsample; HSFM's settings are the configured ones throughout, but that "
        "`K_hard capped` takes at most as many hard images of a class as there are minority images. "
        + spread_note(summary, "draws", "draw"),
        *_verdicts(summary),
    )
    return TextTable.of(rows, notes=notes, text_columns=1, title="Test worst group by the bias of validation.")


def _verdicts(summary: pd.DataFrame) -> list[str]:
    """In words where HSFM helps and where it beats the control; a lead counts from two standard errors."""
    texts = []
    for dataset, method in itertools.product(summary["dataset"].unique(), OURS):
        part = summary[(summary["dataset"] == dataset) & (summary["method"] == method)]
        texts.append(
            f"{dataset}, {method_label(method)}: worst group above ERM's at {_where(part, 'gain', 1)}; above that of "
            f"the control LLR, which fits on class labels too, at {_where(part, 'over_control', 1)}, and below it at "
            f"{_where(part, 'over_control', -1)}."
        )
    basis = "backbones" if summary["runs"].max() > 1 else "draws, which share images and the test split"
    return [*texts, f"Above and below: the mean paired difference is beyond two standard errors over {basis}."]


def _where(part: pd.DataFrame, name: str, sign: int) -> str:
    """The agreements at which a difference is clearly of that sign."""
    count = part["runs"].where(part["runs"] > 1, part["draws"])
    clear = part[sign * part[name] > 2 * part[f"{name}_deviation"].fillna(np.inf) / np.sqrt(count)]
    if len(clear) in (0, len(part)):
        return "none of the agreements" if clear.empty else "every agreement"
    return " and ".join(f"{100 * a:g} %" for a in clear["agreement"])
