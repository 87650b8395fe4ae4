"""Table of the software versions that the jobs recorded."""

from typing import Any

import pandas as pd

from hsfm.core.text_tables import TextTable

VERSIONS = {
    **{"hsfm": "hsfm", "commit": "commit", "python": "Python", "torch": "torch", "torchvision": "torchvision"},
    **{"cuda": "CUDA", "driver": "driver"},
}
_DETAILS = ["dirty", "devices", "stages", "jobs", "recorded"]


def collect_versions(costs: pd.DataFrame) -> pd.DataFrame:
    """One row per distinct set of versions: columns VERSIONS, dirty, devices, stages, jobs, recorded.

    costs: of `costs.read_costs`. A job that did not load torch knows nothing of it, and a job on the CPU nothing of a
    driver: a set that leaves some open counts with the first that agrees in all that it says. stages: in words
    "dataset: stage, stage". dirty: whether the working tree had changes that were in no commit; null where not known.
    jobs: how many ran with the set; recorded: out of how many jobs.
    """
    jobs = costs[costs["versions"].notna()]
    unknown = [[versions.get(key) for key in (*VERSIONS, "dirty")].count(None) for versions in jobs["versions"]]
    sets: list[tuple[dict[str, Any], list[int]]] = []  # and the numbers of their jobs
    # those that say most first
    for number, versions in jobs["versions"].iloc[sorted(range(len(jobs)), key=unknown.__getitem__)].items():
        known = {key: versions[key] for key in (*VERSIONS, "dirty") if versions.get(key) is not None}
        numbers = next((numbers for other, numbers in sets if known.items() <= other.items()), None)
        if numbers is None:
            sets.append((known, numbers := []))
        numbers.append(number)
    rows = []
    for known, numbers in sets:
        own = jobs.loc[numbers]
        stages = own.groupby("dataset", sort=False)["stage"].agg(lambda names: ", ".join(dict.fromkeys(names)))
        devices = "; ".join(own["device"].dropna().unique())
        row = {**known, "devices": devices, "stages": "; ".join(f"{dataset}: {of}" for dataset, of in stages.items())}
        rows.append({**row, "jobs": len(own), "recorded": len(jobs)})
    return pd.DataFrame(rows, columns=[*VERSIONS, *_DETAILS])


def versions_table(versions: pd.DataFrame) -> TextTable:
    """The rows of `collect_versions` for readers."""
    known = versions.astype(dict.fromkeys((*VERSIONS, "devices"), "string"))  # a column may be empty throughout
    commit = known["commit"].str[:12] + known["dirty"].map({True: " + changes"}).astype("string").fillna("")
    everything = "all " + versions["jobs"].astype(str) + " recorded jobs"
    stages = versions["stages"].where(versions["jobs"] != versions["recorded"], everything)
    shown = known.drop(columns="dirty").assign(commit=commit, stages=stages).fillna("-").replace("", "-")
    notes = (
        "What each job recorded of itself, a row per set of versions. commit: of the working tree that it ran from, "
        "with + changes where that had some that were in no commit. - where a job could not tell, or left no record.",
    )
    columns = [("Stages", "stages"), ("Device", "devices"), *((words, key) for key, words in VERSIONS.items())]
    return TextTable.of(shown, columns, notes=notes, text_columns=len(columns), title="Versions.")
