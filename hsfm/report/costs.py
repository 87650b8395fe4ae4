"""Time and memory of every job, stage and method, out of the records of the jobs.

Records lie in logs, which may be deleted at any time: what is not known is null.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hsfm.core.text import duration
from hsfm.core.text_tables import Cell, TextTable
from hsfm.report.names import method_label

TIMES, SIZES = ["seconds", "cpu_seconds"], ["memory_mb", "gpu_memory_mb"]
BEYOND = "seconds_beyond_erm"
COLUMNS = ["dataset", "run", "stage", "method", "seed", *TIMES, *SIZES, "device", "versions", "shards", "made", "job"]
_NAME = re.compile(  # a row of the tables may end in a split or a number itself
    r"(?P<stage>(?P<of_row>(?:fit|select)_)?.+?)"
    r"(_(seed(?P<seed>\d+)|(?(of_row)(?!)|(?:train|val|test|\d+))))?(_\d+-of-(?P<shards>\d+))?"
)
ABSENT = (
    "Times are by the clock, from when a job begins to load its code, on a machine that may have done other things; "
    "memory is the largest resident set of a process, GPU memory the peak of torch's allocator. - where a job has left "
    "no record in logs/, which may be deleted; a job that went on after it was killed counts its last part."
)


@dataclass(frozen=True)
class Stages:
    """Names of the workflow's stages, as logs have them; `fit_X` is of the method X."""

    of_method: Mapping[str, str]  # method of a stage whose name does not say it
    prefixes: Mapping[str, str]  # stage of jobs that are named by this prefix and a method
    after_heads: Collection[str]  # that a head does not wait for
    of_results: Collection[str]  # prefixes of those that only show results, or hand them on


def read_costs(folder: str | Path, stages: Stages) -> pd.DataFrame:
    """One row per job of a dataset, with the columns COLUMNS, in the order in which they ended.

    folder: where records lie as `{dataset}/[run{run}/[{network}/]]NAME.json`. run: null of stages that serve all runs.
    stage: NAME without seed, split, shard and method. method: empty where a stage serves all. seed: null but where each
    seed has a job of its own. TIMES, SIZES: as `hsfm.core.job.finish` records them. job: the path without suffix. Where
    a stage has run with several numbers of shards, the jobs of the latest count.
    """
    folder = Path(folder)
    records = sorted(folder.rglob("*/*.json"))
    rows = [_read_job(path, *path.relative_to(folder).parts, stages=stages) for path in records]
    frame = pd.DataFrame(rows, columns=COLUMNS).sort_values(["dataset", "made"], kind="stable")
    latest = frame.groupby(["dataset", "run", "stage", "method"], dropna=False)["shards"].transform("last")
    types = {"run": "Int64", "seed": "Int64", **dict.fromkeys([*TIMES, *SIZES], float)}
    return frame[frame["shards"] == latest].astype(types).reset_index(drop=True)


def _read_job(path: Path, dataset: str, *folders: str, stages: Stages) -> dict[str, Any]:
    record = json.loads(path.read_text())
    run = int(folders[0][3:]) if re.fullmatch(r"run\d+", folders[0]) else None
    network = folders[:-1] if run is None else folders[1:-1]  # ("dac", "seed0")
    return {
        **{"dataset": dataset, "run": run, "job": str(path.with_suffix("")), **_stage(path.stem, network, stages)},
        **{key: record.get(key) for key in (*TIMES, *SIZES, "device", "versions")},
        "made": path.stat().st_mtime,
    }


def _stage(name: str, network: Sequence[str], stages: Stages) -> dict[str, Any]:
    parts = _NAME.fullmatch(name).groupdict()
    seed = network[1].removeprefix("seed") if len(network) > 1 else parts["seed"]
    stage = parts["stage"]
    method = network[0] if network else stages.of_method.get(stage, "")
    prefix = next((prefix for prefix in ("fit_", *stages.prefixes) if stage.startswith(prefix)), None)
    if prefix and stage not in stages.of_method:
        stage, method = stages.prefixes.get(prefix, stage), stage.removeprefix(prefix)
    return {"stage": stage, "method": method, "seed": seed and int(seed), "shards": int(parts["shards"] or 1)}


def of_plan(
    costs: pd.DataFrame, datasets: Sequence[str], runs: Collection[int], seeds: Collection[int], stages: Stages
) -> pd.DataFrame:
    """Jobs of these datasets, in this order, runs and seeds, without those that only show results."""
    mine = costs["dataset"].isin(datasets) & ~costs["stage"].str.startswith(tuple(stages.of_results))
    for column, chosen in (("run", runs), ("seed", seeds)):
        mine &= costs[column].isna() | costs[column].isin(chosen)
    return costs[mine].sort_values("dataset", key=lambda names: names.map(list(datasets).index), kind="stable")


def method_costs(costs: pd.DataFrame, stages: Stages) -> pd.DataFrame:
    """Cost from the images to one head: a row per dataset, run and method with the columns TIMES, BEYOND and
    SIZES.

    Counted are the stages of ERM (training, embedding) and the method's own before its head; not the preparation of
    images, which serves all methods. Times of shards add up; of memory the highest counts. Where each seed has a job of
    its own the mean time over seeds counts; a job that fits all seeds at once counts whole. A method on a network of
    its own (AFR) does not count ERM's; BEYOND are the seconds of the method's own stages alone. ERM itself counts
    embedding only where its head is fitted on embeddings. A time is null where that of a stage is not known.
    """
    jobs = costs[(costs["method"] != "") & ~costs["stage"].isin(stages.after_heads)]
    embedding = jobs["stage"].str.endswith("_embeddings") & ~jobs["stage"].isin(stages.of_method)
    jobs = jobs[~(embedding & jobs["seed"].notna())]  # which are made to score a seed's head
    rows = []
    for (dataset, run), part in jobs[jobs["run"].notna()].groupby(["dataset", "run"], sort=False):
        for method, own in part.groupby("method", sort=False):
            if method == "erm" and not own["stage"].str.startswith("fit_").any():
                own = own[~embedding[own.index]]
            elif method != "erm" and not embedding[own.index].any():
                shared = jobs["run"].isna() & (jobs["dataset"] == dataset) & (jobs["method"] == method)
                own = pd.concat([part[part["method"] == "erm"], jobs[shared], own])
            share = np.where(own["seed"].notna(), 1 / max(own["seed"].nunique(), 1), 1.0)
            took = own[TIMES].mul(share, axis=0).sum(skipna=False)
            beyond = (own["seconds"] * share)[own["method"] == method].sum(skipna=False)
            row = {"dataset": dataset, "run": run, "method": method, **took, BEYOND: beyond, **own[SIZES].max()}
            rows.append(row)
    columns = ["dataset", "run", "method", *TIMES, BEYOND, *SIZES]
    return pd.DataFrame(rows, columns=columns).astype({"run": "Int64"})


def mean_costs(costs: pd.DataFrame, methods: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """One row per dataset and method of `method_costs`: means over runs, of memory the highest.

    methods: those of every dataset, in the order of the table; one without a record has nulls.
    """
    grouped = costs.groupby(["dataset", "method"])
    means = grouped[[*TIMES, BEYOND]].agg(lambda values: values.mean(skipna=False)).join(grouped[SIZES].max())
    wanted = [(dataset, method) for dataset, names in methods.items() for method in names]
    return means.reindex(pd.MultiIndex.from_tuples(wanted, names=means.index.names)).reset_index()


def stage_costs(costs: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset, stage and method: jobs, sums of the known TIMES and the highest of SIZES."""
    grouped = costs.groupby(["dataset", "stage", "method"], sort=False)
    sums = grouped[TIMES].sum(min_count=1).join(grouped[SIZES].max())
    sums.insert(0, "jobs", grouped.size())
    return sums.reset_index()


def costs_table(summary: pd.DataFrame) -> TextTable:
    """The rows of `mean_costs` for readers."""
    columns = [
        ("Dataset", "dataset"),
        ("Method", lambda row: method_label(row["method"])),
        ("images to head", lambda row: measured(row["seconds"])),
        ("beyond ERM", lambda row: Cell("-") if row["method"] == "erm" else measured(row[BEYOND])),
        *_REST,
    ]
    notes = (
        "From the images to one head: ERM's training and embedding, and the method's own stages; not the preparation "
        "of images, which serves all methods, nor scoring. Means over backbone runs, of memory the highest. "
        "Where each seed has a job of its own, the mean over seeds; a job that fits all seeds at once counts whole.",
        "Beyond ERM: the method's own stages, on top of ERM's network and features; of one that trains a network of "
        "its own instead, all of it.",
        ABSENT,
    )
    return TextTable.of(
        summary, columns, notes=notes, title="What it takes from the images to one head.", sectioned=True
    )


def stages_table(stages: pd.DataFrame) -> TextTable:
    """The rows of `stage_costs` for readers."""
    columns = [
        ("Dataset", "dataset"),
        ("Stage", "stage"),
        ("Method", lambda row: method_label(row["method"]) if row["method"] else "all"),
        ("jobs", "jobs"),
        ("time", lambda row: measured(row["seconds"])),
        *_REST,
    ]
    notes = ("A stage's jobs over all runs, seeds and shards: their times added up, of memory the highest.", ABSENT)
    return TextTable.of(
        stages, columns, notes=notes, text_columns=3, title="Time and memory of every stage.", sectioned=True
    )


def megabytes(number: float) -> str:
    return f"{number / 1000:.1f} GB" if number >= 1000 else f"{number:.0f} MB"


def measured(number: float, text: Callable[[float], str] = duration) -> Cell:
    """A cell of a number in words, by which it is sorted; a dash where it is not known."""
    return Cell("-") if pd.isna(number) else Cell(text(number), order=round(float(number), 2))


_REST = [
    ("CPU time", lambda row: measured(row["cpu_seconds"])),
    ("memory", lambda row: measured(row["memory_mb"], megabytes)),
    ("GPU memory", lambda row: measured(row["gpu_memory_mb"], megabytes)),
]
