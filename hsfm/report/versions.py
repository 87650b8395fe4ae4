"""Table of the software versions that the jobs recorded."""

import pandas as pd

from hsfm.core.text_tables import TextTable

PARTS = {
    **{"hsfm": "hsfm", "commit": "commit", "python": "Python", "torch": "torch", "torchvision": "torchvision"},
    **{"cuda": "CUDA", "device": "device"},
}
CHANGES = " + changes"


def collect_versions(costs: pd.DataFrame) -> pd.DataFrame:
    """One row per version of each of PARTS: columns part, version, stages, and jobs, how many ran with it.

    costs: of `costs.read_costs`. What a job did not load it does not count for. stages: in words, of a part with
    several versions; otherwise `all`.
    """
    jobs = costs[costs["versions"].notna()]
    known = pd.DataFrame(jobs["versions"].tolist(), jobs.index, columns=[*PARTS, "dirty"])
    known.loc[known["dirty"] == True, "commit"] += CHANGES  # noqa: E712  (null where not known)
    known = known.assign(device=jobs["device"], stage=jobs["dataset"] + "/" + jobs["stage"])
    versions = known.melt("stage", list(PARTS), "part", "version").dropna().groupby(["part", "version"], sort=False)
    found = versions["stage"].agg(stages=lambda stages: ", ".join(stages.unique()), jobs="size").reset_index()
    return found.assign(stages=found["stages"].where(found["part"].duplicated(keep=False), "all"))


def versions_table(versions: pd.DataFrame) -> TextTable:
    """The rows of `collect_versions` for readers."""
    commit = versions["version"].str.replace(r"^([0-9a-f]{12})[0-9a-f]+", r"\1", regex=True)
    rows = versions.assign(part=versions["part"].map(PARTS), version=commit)
    notes = (
        "What each job recorded of itself. + changes: of a working tree that had some that were in no commit. jobs: "
        "those that could tell.",
    )
    columns = [("Part", "part"), ("Version", "version"), ("Stages", "stages"), ("jobs", "jobs")]
    return TextTable.of(rows, columns, notes=notes, text_columns=3, title="Versions.")
