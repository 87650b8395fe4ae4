"""What a run cost: time and memory of every job, out of Snakemake's benchmarks and the records of the jobs.

A job leaves `NAME.tsv` (Snakemake's benchmark) and `NAME.json` (its own record) in a folder of logs, sorted by dataset
and run. Either may be missing: logs may be deleted at any time, and what is not known is null.
"""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

# Stages whose names do not say for which method they are: `fit_X` and `score_X` are for X.
STAGE_METHODS = {
    "train_erm": "erm",
    "take_backbone": "erm",
    "import_embeddings": "erm",
    "read_erm_head": "erm",
    "fit_erm_head": "erm",
    "train_on_share": "afr",
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
# variants by what their heads say, and their method in the workflow
VARIANTS = {"ddb_cut_paste": "ddb"}
# methods that train a network from nothing rather than start at ERM's
OWN_TRAINING = {"afr": "train_on_share"}
COLUMNS = [
    "dataset", "run", "stage", "method", "seed", "seconds", "cpu_seconds", "memory_mb", "gpu_memory_mb", "job",
]  # fmt: skip
_BENCHMARK = {"seconds": "s", "cpu_seconds": "cpu_time", "memory_mb": "max_rss"}
_NAMED_AFTER_METHOD = {"score": "score_heads", "gather_heads": "gather_heads", "export": "export_model"}


def read_costs(folder: str | Path) -> pd.DataFrame:
    """One row per job of a dataset, with the columns COLUMNS.

    folder: where logs lie as `{dataset}/[run{run}/[{network}/]]NAME.tsv` and `.json`. run: null of stages that serve
    all runs. stage: NAME without seed, split, shard and method. method: what the stage is for; empty where it serves
    all. seed: null but where each seed has a job of its own. seconds: by the clock; memory_mb: the largest resident
    set; gpu_memory_mb: the peak of torch's allocator. job: the path without suffix. Where a stage has run with several
    numbers of shards, the jobs of the latest count. Raises ValueError naming a file that holds something else.
    """
    folder = Path(folder)
    jobs = sorted({path.with_suffix("") for suffix in ("tsv", "json") for path in folder.rglob(f"*.{suffix}")})
    rows = [_row(job, folder) for job in jobs if len(job.relative_to(folder).parts) > 1]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "shards", "made"])
    stages = ["dataset", "run", "stage", "method"]
    latest = frame.sort_values("made").groupby(stages, dropna=False)["shards"].transform("last")
    kept = frame[frame["shards"] == latest.reindex(frame.index)] if len(frame) else frame
    numbers = dict.fromkeys(("seconds", "cpu_seconds", "memory_mb", "gpu_memory_mb"), float)
    return kept[COLUMNS].astype({"run": "Int64", "seed": "Int64", **numbers}).reset_index(drop=True)


def _row(job: Path, folder: Path) -> dict[str, Any]:
    dataset, *parts, name = job.relative_to(folder).parts
    run = int(parts.pop(0).removeprefix("run")) if parts and re.fullmatch(r"run\d+", parts[0]) else None
    return {
        "dataset": dataset,
        "run": run,
        **_stage(name, parts),
        **_benchmark(Path(f"{job}.tsv")),
        "gpu_memory_mb": read_record(f"{job}.json").get("gpu_memory_mb"),
        "job": str(job),
        "made": max(p.stat().st_mtime for suffix in ("tsv", "json") if (p := Path(f"{job}.{suffix}")).exists()),
    }


def _stage(name: str, network: list[str]) -> dict[str, Any]:
    """What a job's name and the network in its path say. network: such as ["dac", "seed0"], or nothing."""
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
    """What a job has recorded of itself; nothing where there is no record. Raises ValueError where it is no record."""
    try:
        record = json.loads(Path(path).read_text())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ValueError(f"{path}: not a record of a job ({error}); delete it") from error
    if not isinstance(record, dict):
        raise ValueError(f"{path}: not a record of a job, but {record!r}; delete it")
    return record


def method_seconds(costs: pd.DataFrame) -> pd.DataFrame:
    """Seconds from the images to one head: columns dataset, run, method, seconds.

    costs: of `read_costs`. Counted are the stages of ERM (training, embedding) and the method's own before its head;
    not the preparation of images, which serves all methods, nor what comes after the head. Shards add up. Where each
    seed has a job of its own the mean over seeds counts; a job that fits all seeds at once counts whole, which is
    more than a single head would take. A method that starts from nothing (AFR) does not count ERM's training. ERM
    itself counts its training and its head, and embedding only where that head is fitted on embeddings. Null where
    the time of a stage is not known. method: as the workflow names it; VARIANTS has those that scores name otherwise.
    """
    jobs = costs[costs["run"].notna() & (costs["method"] != "") & ~costs["stage"].isin(AFTER_HEADS)]
    # features of a seed's own network are made to score its head
    jobs = jobs[~(jobs["stage"].isin(("extract_embeddings", "gather_embeddings")) & jobs["seed"].notna())]
    shared_by_runs = costs[costs["run"].isna() & (costs["method"] != "") & ~costs["stage"].isin(AFTER_HEADS)]
    rows = []
    for (dataset, run), part in jobs.groupby(["dataset", "run"], sort=False):
        erm = part[part["method"] == "erm"]
        for method in dict.fromkeys(["erm", *part["method"]]):
            own = part[part["method"] == method]
            if method == "erm":
                fitted = (own["stage"] == "fit_erm_head").any()
                counted = own if fitted else own[~own["stage"].isin(("extract_embeddings", "gather_embeddings"))]
            elif OWN_TRAINING.get(method) in set(own["stage"]):
                counted = own
            else:
                of_dataset = (shared_by_runs["dataset"] == dataset) & (shared_by_runs["method"] == method)
                counted = pd.concat([erm, shared_by_runs[of_dataset], own])
            if len(counted):
                rows.append({"dataset": dataset, "run": run, "method": method, "seconds": _one_head(counted)})
    return pd.DataFrame(rows, columns=["dataset", "run", "method", "seconds"]).astype({"run": "Int64"})


def _one_head(jobs: pd.DataFrame) -> float:
    by_seed = jobs[jobs["seed"].notna()]
    per_seed = by_seed["seconds"].sum(skipna=False) / max(by_seed["seed"].nunique(), 1)
    return float(jobs.loc[jobs["seed"].isna(), "seconds"].sum(skipna=False) + per_seed)
