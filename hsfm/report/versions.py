"""Table of the software versions that the jobs recorded."""

import pandas as pd

from hsfm.core.text_tables import TextTable

_OF_TORCH = {"torch": "torch", "torchvision": "torchvision", "cuda": "CUDA"}
VERSIONS = {"hsfm": "hsfm", "commit": "commit", "python": "Python", **_OF_TORCH}
_KEYS = [*VERSIONS, "dirty"]


def collect_versions(costs: pd.DataFrame) -> pd.DataFrame:
    """One row per distinct set of versions: columns VERSIONS, dirty, devices, stages, jobs, recorded.

    costs: of `costs.read_costs`. A job that did not load torch knows nothing of it: it counts with the first that
    agrees in the rest. stages: in words "dataset: stage, stage". dirty: whether the working tree had changes that were
    in no commit; null where not known. jobs: how many ran with the set; recorded: out of how many jobs.
    """
    jobs = costs[costs["versions"].notna()]
    known = pd.DataFrame(jobs["versions"].tolist(), jobs.index, columns=_KEYS, dtype=object)
    missing = list(_OF_TORCH)
    first = known.groupby([key for key in _KEYS if key not in missing], dropna=False)[missing].transform("first")
    known[missing] = known[missing].where(known[missing].notna(), first)
    rows = []
    for versions, own in jobs.join(known).groupby(_KEYS, dropna=False, sort=False):
        stages = own.groupby("dataset", sort=False)["stage"].agg(lambda names: ", ".join(dict.fromkeys(names)))
        words = "; ".join(f"{dataset}: {names}" for dataset, names in stages.items())
        rows.append((*versions, "; ".join(own["device"].dropna().unique()), words, len(own), len(jobs)))
    return pd.DataFrame(rows, columns=[*_KEYS, "devices", "stages", "jobs", "recorded"])


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
