"""First answers of the page: the best method, its group labels, how the numbers were averaged and made."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

import pandas as pd

from hsfm.core.text import duration
from hsfm.report.names import method_label
from hsfm.report.tables import spread_note
from hsfm.report.versions import CHANGES

SPACE = "\N{NO-BREAK SPACE}"
MEASURES = {"worst_group": "worst-group accuracy", "worst_class": "worst-class accuracy"}


@dataclass(frozen=True)
class Provenance:
    made: date  # of the newest result
    seconds: float = float("nan")  # of all jobs together
    version: str = ""  # of hsfm; empty where no job has recorded it
    commit: str = ""
    dirty: bool = False  # whether code had changes that were in no commit
    mixed: bool = False  # whether other jobs were made from other commits

    @property
    def sentence(self) -> str:
        commit = f", commit {self.commit[:12]}" if self.commit else ""
        changed = ", with changes that were not committed" if self.dirty else ""
        others = "; some results by other commits, which the topic Versions has" if self.mixed else ""
        newest = f"The newest result is of {self.made.day} {self.made:%B %Y}."
        return f"Made by hsfm {self.version}{commit}{changed}{others}. {newest}"


def provenance(made: date, stages: pd.DataFrame, versions: pd.DataFrame) -> Provenance:
    """Provenance by the tables of stages and versions; where versions differ, that of most jobs."""
    most = versions.sort_values("jobs", kind="stable").groupby("part")["version"].last()
    commits = versions.loc[versions["part"] == "commit", "version"].astype(str)
    return Provenance(
        made,
        stages["seconds"].sum(min_count=1),
        most.get("hsfm", ""),
        most.get("commit", "").removesuffix(CHANGES),
        dirty=bool(commits.str.endswith(CHANGES).any()),
        mixed=len(set(commits.str.removesuffix(CHANGES))) > 1,
    )


def summarize(main: pd.DataFrame, provenance: Provenance) -> list[tuple[str, list[str]]]:
    """Questions of a reader, each with sentences that answer it; of the same as `best_method`."""
    best = [sentence for _, part in main.groupby("dataset", sort=False) for sentence in best_method(part)]
    took = "Not known: there is no record of the jobs."
    if pd.notna(provenance.seconds):
        took = (
            f"All stages together took {duration(provenance.seconds)} by the clock, one after the other; the topic "
            "Costs has every stage, and what each method takes."
        )
    return [
        ("Which method is best", best),
        ("Group labels", group_labels(main)),
        ("Over how many", [spread_note(main)]),
        ("How long it took", [took]),
        ("When, with what", [provenance.sentence]),
    ]


def best_method(main: pd.DataFrame) -> list[str]:
    """Sentences on one dataset: the best method, its lead over ERM and over the best other, and statistical ties.

    main: `tables.aggregate` joined with `uncertainty.measure`. Methods are ranked by the worst group, or by the worst
    class where no group is known; what is shown equal is called equal.
    """
    measure = "worst_group" if main["worst_group_percent"].notna().any() else "worst_class"
    columns = {f"{measure}_percent": "value", f"{measure}_deviation": "spread", f"{measure}_best": "tied"}
    rows = main.rename(columns=columns).dropna(subset="value").astype({"value": float})
    rows = rows.sort_values("value", ascending=False, kind="stable").set_index("method").round({"value": 1})
    first = list(rows.index[rows["value"] == rows["value"].iloc[0]])
    best, others = first[0], [method for method in rows.index if method not in first]
    sentences = [f"On {main['dataset'].iloc[0]} {_lead(rows, first, others, MEASURES[measure])}."]
    if tied := [method for method in others if rows.loc[method, "tied"]]:
        sentences.append(
            f"{_names(tied)} cannot be told apart from {method_label(best)} on these test images (95 % interval of a "
            "bootstrap over them): which of them is best is not known."
        )
    elif others:
        sentences.append(
            "All other methods are told apart from it by a bootstrap over the test images (95 % intervals)."
        )
    free = rows[rows["group_labels"] != "training"]
    if best not in free.index and len(free):
        winner = f"{method_label(free.index[0])} is best, {_with_spread(free.iloc[0])}"
        sentences.append(f"Among those that train without group labels {winner}.")
    average = rows["average_percent"].map("{:.1f} %".format)
    of_erm = f", of ERM {average['erm']}" if "erm" in others else ""
    return [*sentences, f"Average accuracy of {method_label(best)}: {average[best]}{of_erm}."]


def _lead(rows: pd.DataFrame, first: Sequence[str], others: Sequence[str], measure: str) -> str:
    """The best method of rows sorted by `value`, and by how much. first: those with the highest value."""
    best = rows.loc[first[0]]

    def above(method: str) -> str:
        points = f"{best['value'] - rows.loc[method, 'value']:.1f}"
        return f"{points} point{'' if points == '1.0' else 's'} above"

    found = f"{method_label(first[0])} has the highest {measure}, {_with_spread(best)}"
    if len(first) > 1:
        found = f"{_names(first)} share the highest {measure}, {best['value']:.1f}{SPACE}%"
    leads = []
    if "erm" in others:
        low, high = best["worst_group_to_erm_low"], best["worst_group_to_erm_high"]
        interval = f"; 95{SPACE}% interval of the difference {low:.1f} to {high:.1f}" if pd.notna(low) else ""
        leads.append(f"{above('erm')} ERM ({_with_spread(rows.loc['erm'])}{interval})")
    if len(first) == 1 and (rivals := [method for method in others if method != "erm"]):
        leads.append(
            f"{above(rivals[0])} the best other, {method_label(rivals[0])} ({_with_spread(rows.loc[rivals[0]])})"
        )
    return f"{found}{': ' if leads else ''}{in_words(leads)}"


def group_labels(main: pd.DataFrame) -> list[str]:
    """Methods by what they used group labels for; of a method the most that it used on any dataset."""
    said = {
        "training": "{} trained on the group labels of validation images",
        "selection": "{} used those of validation to choose an epoch or a setting, not to train",
        "none": "{} used none",
    }
    used = main.groupby("method", sort=False)["group_labels"].agg(lambda uses: min(uses, key=list(said).index))
    if set(used) == {"none"}:
        return ["No method used group labels."]
    parts = [words.format(_names(used.index[used == use])) for use, words in said.items() if use in set(used)]
    return [f"{'; '.join(parts)}.", "No method saw group labels of training images; test labels only score."]


def _with_spread(row: pd.Series) -> str:
    spread = "" if pd.isna(row["spread"]) else f"{SPACE}±{SPACE}{row['spread']:.1f}"
    return f"{row['value']:.1f}{spread}{SPACE}%"


def _names(methods: Iterable[str]) -> str:
    return in_words([method_label(method) for method in methods])


def in_words(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
