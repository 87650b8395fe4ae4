"""First answers of the page: the head to take, use of group labels, how the numbers were averaged and made."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

import pandas as pd

from hsfm.core.text import duration
from hsfm.report.names import method_label
from hsfm.report.tables import FEW, GROUP_LABELS, demands, spread_note
from hsfm.report.versions import CHANGES

SPACE = "\N{NO-BREAK SPACE}"
CHOICES = {  # by the most demanding use that is allowed; with the column that marks the best and its ties
    0: ("without group labels", "best_of_block"),
    3: ("with group labels of validation", "best_without_train"),
    5: ("with group labels of training images, too,", "best"),
}
USES = {
    "both": "{} trained on the group labels of training and validation images",
    "train": "{} trained on the group labels of training images",
    "training": "{} trained on the group labels of validation images",
    "hints": "{} trained on the group labels of some validation images",
    "selection": "{} used those of validation to choose an epoch or a setting, not to train",
    "none": "{} used none",
}
MEASURES = {"worst_group": "worst-group accuracy", "worst_class": "worst-class accuracy"}


@dataclass(frozen=True)
class Provenance:
    made: date  # of the newest result
    seconds: float = float("nan")  # of all jobs together
    version: str = ""  # of hsfm; empty where no job has recorded it
    commit: str = ""
    dirty: bool = False  # whether code had changes that were in no commit
    mixed: bool = False  # whether other jobs were made from other commits
    costs: bool = True  # whether the page has a topic on them

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


Answer = list[str] | dict[str, list[str]]  # paragraphs, or those of each of several datasets


def summarize(main: pd.DataFrame, provenance: Provenance) -> list[tuple[str, Answer]]:
    """Questions of a reader, each with its answer; of the same as `head_to_take`."""
    main = main.assign(demand=demands(main))
    heads = {dataset: head_to_take(part) for dataset, part in main.groupby("dataset", sort=False)}
    took = "Not known: there is no record of the jobs."
    if pd.notna(provenance.seconds):
        took = (
            f"All stages together took {duration(provenance.seconds)} by the clock, one after the other; the topic "
            "Costs has every stage, and what each method takes."
            if provenance.costs
            else f"{duration(provenance.seconds)} by the clock."
        )
    return [
        ("Which head to take", heads if len(heads) > 1 else next(iter(heads.values()))),
        ("Group labels", group_labels(main)),
        ("Over how many", [spread_note(main)]),
        ("How long it took", [took]),
        ("When, with what", [provenance.sentence]),
    ]


def head_to_take(main: pd.DataFrame) -> list[str]:
    """Paragraphs on one dataset: the best head with group labels and without, each with its ties, and how far to trust.

    main: `tables.aggregate` joined with `uncertainty.measure`, and a column `demand` of `tables.demands`. Methods are
    ranked by the worst group, or by the worst class where no group is known. Whoever has group labels may also take a
    method that needs none.
    """
    measure = "worst_group" if main["worst_group_percent"].notna().any() else "worst_class"
    columns = {f"{measure}_{name}": name for name in ("percent", "deviation", "low", "high")}
    rows = main.dropna(subset=f"{measure}_percent").rename(columns=columns).set_index("method")
    rows = rows.astype({"percent": float}).sort_values("percent", ascending=False, kind="stable")
    choices = []
    for demand, (words, mark) in CHOICES.items():
        own = rows[rows["demand"] <= demand]
        if len(own) > (len(choices[-1][1]) if choices else 0):
            choices.append((words, own, own[f"{measure}_{mark}"]))
    choices = choices[1::-1]  # the two that demand least
    if len({own.index[0] for _, own, _ in choices}) < len(choices):
        choices = [(f"{choices[0][0]} or without", *choices[0][1:])]
    said = [f"{words} take {_choice(own, tied, MEASURES[measure])}" for words, own, tied in choices]
    if "erm" in rows.index and all(own.index[0] != "erm" for _, own, _ in choices):
        said[-1] += f"; ERM has {_with_spread(rows.loc['erm'])}"
    images = rows[f"{measure}_images"].iloc[0]
    if images < FEW:
        said.append(
            f"the smallest test {measure.removeprefix('worst_')} has {images} images, fewer than {FEW}: read the "
            "intervals, and take no head for the best by its number alone"
        )
    said += told_by_validation(main)
    return [f"{sentence[0].upper()}{sentence[1:]}." for sentence in said]


def told_by_validation(main: pd.DataFrame) -> list[str]:
    """A sentence where HSFM does worse on held-out validation than another method that needs no more group labels.

    main: as `head_to_take` has it, of one dataset. The difference is more than HSFM's standard error. HSFM's number and
    its control's are of choices without the image, those of others of choices among few settings, with it.
    """
    rows = main.assign(demand=demands(main)).dropna(subset="held_out_percent").set_index("method")
    if "hsfm" not in rows.index:
        return []
    own = rows.loc["hsfm"]
    best = rows[rows["demand"] <= own["demand"]].sort_values("held_out_percent", kind="stable").iloc[-1]
    if best["held_out_percent"] <= own["held_out_percent"] + own["held_out_error"]:
        return []
    part = MEASURES["worst_group" if pd.notna(own["worst_group_percent"]) else "worst_class"].removesuffix(" accuracy")
    others = f"{method_label(best.name)} has {best['held_out_percent']:.1f}{SPACE}% in the {part.replace('-', ' ')}"
    hsfm = f"{method_label('hsfm')} {own['held_out_percent']:.1f} ±{SPACE}{own['held_out_error']:.1f}{SPACE}%"
    return [
        f"by validation alone, on images that did not teach, {others} and {hsfm}: take {method_label(best.name)} "
        f"rather than {method_label('hsfm')}"
    ]


def _choice(rows: pd.DataFrame, tied: pd.Series, measure: str) -> str:
    """The first of some methods, its accuracy, and the others that are tied with it."""
    best, others = rows.iloc[0], rows.index[1:]
    interval = f"95{SPACE}% interval {best['low']:.1f} to {best['high']:.1f}"
    found = f"{method_label(best.name)}: {measure} {_with_spread(best)} ({interval})"
    if not len(others):
        return found
    if tied[others].all() or not tied[others].any():
        return f"{found}; {'no' if tied[others].all() else 'every'} other method can be told apart from it"
    return f"{found}; {_names(others[tied[others]])} cannot be told apart from it"


def group_labels(main: pd.DataFrame) -> list[str]:
    """Methods by what they used group labels for; of a method the most that it used on any dataset."""
    used = main.groupby("method", sort=False)["demand"].first().map(list(GROUP_LABELS).__getitem__)
    if set(used) == {"none"}:
        return ["No method used group labels."]
    parts = [words.format(_names(used.index[used == use])) for use, words in USES.items() if use in set(used)]
    unseen = "" if {"train", "both"} & set(used) else "No method saw those of training images. "
    return [f"{'; '.join(parts)}.", f"{unseen}Those of test images only score."]


def _with_spread(row: pd.Series) -> str:
    spread = "" if pd.isna(row["deviation"]) else f"{SPACE}±{SPACE}{row['deviation']:.1f}"
    return f"{row['percent']:.1f}{spread}{SPACE}%"


def _names(methods: Iterable[str]) -> str:
    return in_words([method_label(method) for method in methods])


def in_words(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)
