"""Time and memory of every job, read from Snakemake's benchmarks and the records of the jobs.

A job leaves `NAME.tsv` (Snakemake's benchmark) and `NAME.json` (its own record) in a folder of logs, sorted by dataset
and run. Either may be missing: logs may be deleted at any time, and what is not known is null.
"""

import json
import re
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

# the stage of methods that train a network from nothing rather than start at ERM's
OWN_TRAINING = "train_on_share"
# Stages whose names do not say for which method they are: `fit_X` and `score_X` are for X.
STAGE_METHODS = {
    "train_erm": "erm",
    "take_backbone": "erm",
    "import_embeddings": "erm",
    "read_erm_head": "erm",
    "fit_erm_head": "erm",
    OWN_TRAINING: "afr",
    "make_masks": "dac",
    "gather_masks": "dac",
    "take_masks": "dac",
    "choose_sources": "ddb",
    "learn_token": "ddb",
    "segment_objects": "ddb",
    "take_objects": "ddb",
    "inpaint_objects": "ddb",
    "paste_objects": "ddb",
    "gather_generated": "ddb",
    "prune_generated": "ddb",
    "build_hard_set": "hsfm",
    "measure_edits": "hsfm",
    "decode_edits": "hsfm",
    "sweep_hsfm": "hsfm",
    "gather_sweep": "hsfm",
    "ablate_hsfm": "hsfm",
}
# what a head does not wait for
AFTER_HEADS = {
    "gather_heads", "score_heads", "export_model", "measure_edits", "decode_edits", "sweep_hsfm", "gather_sweep",
    "ablate_hsfm", "bias_validation",
}  # fmt: skip
# what only shows results, or hands them on
PICTURES = r"draw_|write_card|export_model|decode_edits"
# variants by what their heads say, and their method in the workflow
VARIANTS = {"ddb_cut_paste": "ddb"}
NUMBERS = ["seconds", "cpu_seconds", "memory_mb", "gpu_memory_mb"]
COLUMNS = [
    "dataset", "run", "stage", "method", "seed", "seconds", "cpu_seconds", "memory_mb", "gpu_memory_mb", "job",
]  # fmt: skip
EMBEDDING = ("extract_embeddings", "gather_embeddings")
_BENCHMARK = {"seconds": "s", "cpu_seconds": "cpu_time", "memory_mb": "max_rss"}
_NAMED_AFTER_METHOD = {"score": "score_heads", "gather_heads": "gather_heads", "export": "export_model"}


def read_costs(folder: str | Path) -> pd.DataFrame:
    """One row per job of a dataset, with the columns COLUMNS.

    folder: where logs lie as `{dataset}/[run{run}/[{network}/]]NAME.tsv` and `.json`. run: null of stages that serve
    all runs. stage: NAME without seed, split, shard and method. method: what the stage is for; empty where it serves
    all. seed: null but where each seed has a job of its own. seconds: by the clock; memory_mb: the largest resident
    set; gpu_memory_mb: the peak of torch's allocator; cpu_seconds: the job's own count where it left a record, else
    Snakemake's. job: the path without suffix. Where a stage has run with several
    numbers of shards, the jobs of the latest count. In the order in which they ended. Raises ValueError naming a file
    that holds something else.
    """
    folder = Path(folder)
    jobs = sorted({path.with_suffix("") for suffix in ("tsv", "json") for path in folder.rglob(f"*.{suffix}")})
    rows = [_row(job, folder) for job in jobs if len(job.relative_to(folder).parts) > 1]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "shards", "made"]).sort_values(["dataset", "made"], kind="stable")
    stages = ["dataset", "run", "stage", "method"]
    kept = frame[frame["shards"] == frame.groupby(stages, dropna=False)["shards"].transform("last")]
    types = {"run": "Int64", "seed": "Int64", **dict.fromkeys(NUMBERS, float)}
    return kept[COLUMNS].astype(types).reset_index(drop=True)


def of_plan(
    costs: pd.DataFrame, datasets: Iterable[str], runs: Collection[int], seeds: Collection[int]
) -> pd.DataFrame:
    """Jobs of these datasets, in this order, runs and seeds, without PICTURES; logs may hold more."""
    order = list(datasets)
    mine = (
        costs["dataset"].isin(order)
        & (costs["run"].isna() | costs["run"].isin(runs))
        & (costs["seed"].isna() | costs["seed"].isin(seeds))
        & ~costs["stage"].str.match(PICTURES)
    )
    return costs[mine].sort_values("dataset", key=lambda names: names.map(order.index), kind="stable")


def _row(job: Path, folder: Path) -> dict[str, Any]:
    dataset, *parts, name = job.relative_to(folder).parts
    benchmark, record = _benchmark(Path(f"{job}.tsv")), read_record(f"{job}.json")
    if record.get("cpu_seconds") is not None:  # to the end; Snakemake looks every half minute
        benchmark["cpu_seconds"] = record["cpu_seconds"]
    run = int(parts.pop(0).removeprefix("run")) if parts and re.fullmatch(r"run\d+", parts[0]) else None
    return {
        "dataset": dataset,
        "run": run,
        **_stage(name, parts),
        **benchmark,
        "gpu_memory_mb": record.get("gpu_memory_mb"),
        "job": str(job),
        "made": max(p.stat().st_mtime for suffix in ("tsv", "json") if (p := Path(f"{job}.{suffix}")).exists()),
    }


def _stage(name: str, network: list[str]) -> dict[str, Any]:
    """Stage, method and seed by a job's name and the network in its path. network: as ["dac", "seed0"], or empty."""
    shards = re.search(r"_\d+-of-(\d+)$", name)
    name = re.sub(r"_\d+-of-\d+$", "", name)
    seed = re.search(r"_seed(\d+)$", name) or re.search(r"^seed(\d+)$", network[-1] if network else "")
    name = re.sub(r"_(seed\d+|train|val|test|\d+)$", "", name)
    method = network[0] if network else STAGE_METHODS.get(name, "")
    for prefix, stage in _NAMED_AFTER_METHOD.items():
        if name.startswith(f"{prefix}_"):
            name, method = stage, name.removeprefix(f"{prefix}_")
    if name.startswith("fit_") and name not in STAGE_METHODS:
        method = name.removeprefix("fit_")
    return {
        "stage": name,
        "method": method,
        "seed": int(seed[1]) if seed else None,
        "shards": int(shards[1]) if shards else 1,
    }


def _benchmark(path: Path) -> dict[str, float]:
    """The numbers of a benchmark; null where there is no file, or a job was too short to be measured."""
    try:
        lines = [line.split("\t") for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return {}
    if len(lines) != 2 or len(lines[0]) != len(lines[1]) or not set(_BENCHMARK.values()) <= set(lines[0]):
        raise ValueError(f"{path}: not a benchmark of Snakemake, a line of names and one of numbers; delete it")
    found = dict(zip(*lines, strict=True))
    try:
        return {key: np.nan if found[name] in ("NA", "-") else float(found[name]) for key, name in _BENCHMARK.items()}
    except ValueError as error:
        raise ValueError(f"{path}: not a benchmark of Snakemake ({error}); delete it") from error


def read_record(path: str | Path) -> dict[str, Any]:
    """The record that a job wrote of itself; empty where there is none. Raises ValueError where it is no record."""
    try:
        record = json.loads(Path(path).read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path}: not a record of a job ({error}); delete it") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path}: not a record of a job, but {record!r}; delete it")
    return record


def method_costs(costs: pd.DataFrame) -> pd.DataFrame:
    """Cost from the images to one head: a row per dataset, run and method with the columns NUMBERS.

    costs: of `read_costs`. Counted are the stages of ERM (training, embedding) and the method's own before its head;
    not the preparation of images, which serves all methods, nor what comes after the head. Times of shards add up; of
    memory the highest counts. Where each seed has a job of its own the mean time over seeds counts; a job that fits all
    seeds at once counts whole, which is more than a single head would take. A method that starts from nothing (AFR)
    does not count ERM's training. ERM itself counts its training and its head, and embedding only where that head is
    fitted on embeddings. A time is null where that of a stage is not known. method: as the workflow names it; VARIANTS
    has those that scores name otherwise.
    """
    jobs = costs[(costs["method"] != "") & ~costs["stage"].isin(AFTER_HEADS)]
    # features of a seed's own network are made to score its head
    jobs = jobs[~(jobs["stage"].isin(EMBEDDING) & jobs["seed"].notna())]
    of_all_runs = jobs[jobs["run"].isna()]
    rows = []
    for (dataset, run), part in jobs[jobs["run"].notna()].groupby(["dataset", "run"], sort=False):
        erm = part[part["method"] == "erm"]
        for method in dict.fromkeys(part["method"]):
            own = part[part["method"] == method]
            if method == "erm" and not (own["stage"] == "fit_erm_head").any():
                own = own[~own["stage"].isin(EMBEDDING)]
            elif method != "erm" and OWN_TRAINING not in set(own["stage"]):
                shared = of_all_runs[(of_all_runs["dataset"] == dataset) & (of_all_runs["method"] == method)]
                own = pd.concat([erm, *([shared] if len(shared) else []), own])
            rows.append({"dataset": dataset, "run": run, "method": method, **_one_head(own)})
    return pd.DataFrame(rows, columns=["dataset", "run", "method", *NUMBERS]).astype({"run": "Int64"})


def _one_head(jobs: pd.DataFrame) -> dict[str, float]:
    of_seeds = jobs["seed"].notna()
    share = np.where(of_seeds, 1 / max(jobs.loc[of_seeds, "seed"].nunique(), 1), 1.0)
    return {
        **{name: float((jobs[name] * share).sum(skipna=False)) for name in ("seconds", "cpu_seconds")},
        **{name: float(jobs[name].max()) for name in ("memory_mb", "gpu_memory_mb")},
    }


def method_seconds(costs: pd.DataFrame) -> pd.DataFrame:
    """Seconds from the images to one head as `method_costs` counts them: columns dataset, run, method, seconds."""
    return method_costs(costs)[["dataset", "run", "method", "seconds"]]


def stage_costs(costs: pd.DataFrame) -> pd.DataFrame:
    """One row per dataset, stage and method: jobs, and NUMBERS over all runs, seeds and shards.

    Times are sums of what is known, memory the highest.
    """
    rows = [
        {
            **dict(zip(("dataset", "stage", "method"), key, strict=True)),
            "jobs": len(part),
            **{name: part[name].sum(min_count=1) for name in ("seconds", "cpu_seconds")},
            **{name: part[name].max() for name in ("memory_mb", "gpu_memory_mb")},
        }
        for key, part in costs.groupby(["dataset", "stage", "method"], sort=False)
    ]
    return pd.DataFrame(rows, columns=["dataset", "stage", "method", "jobs", *NUMBERS])
