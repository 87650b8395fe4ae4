"""Table of the software versions that the jobs recorded."""

from typing import Any

import pandas as pd

from hsfm.core.text_tables import Cell, TextTable
from hsfm.report.costs import read_record

VERSIONS = {
    "hsfm": "hsfm",
    "commit": "commit",
    "python": "Python",
    "torch": "torch",
    "torchvision": "torchvision",
    "cuda": "CUDA",
    "driver": "driver",
}


def collect_versions(costs: pd.DataFrame) -> pd.DataFrame:
    """One row per distinct set of versions: columns VERSIONS, dirty, devices, stages, jobs, recorded.

    costs: of `report.costs.read_costs`. A job that did not load torch knows nothing of it, and a job on the CPU nothing
    of a driver: a set that leaves some open counts with the first that agrees in all that it says. stages: in words
    "dataset: stage, stage". dirty: whether the working tree had changes that were in no commit; null where not known.
    jobs: how many ran with the set; recorded: out of how many jobs.
    """
    records = [(row.dataset, row.stage, read_record(f"{row.job}.json")) for row in costs.itertuples()]
    records = [(dataset, stage, record) for dataset, stage, record in records if record.get("versions")]
    sets: list[dict[str, Any]] = []
    # those that say most first
    for dataset, stage, record in sorted(records, key=lambda r: list(_known(r[2]).values()).count(None)):
        known = _known(record)
        found = next((s for s in sets if all(v is None or v == s["versions"][k] for k, v in known.items())), None)
        if found is None:
            found = {"versions": known, "devices": {}, "stages": {}, "jobs": 0}
            sets.append(found)
        found["devices"][record.get("device")] = None
        found["stages"].setdefault(dataset, {})[stage] = None
        found["jobs"] += 1
    rows = [
        {
            **s["versions"],
            "devices": "; ".join(device for device in s["devices"] if device),
            "stages": "; ".join(f"{dataset}: {', '.join(stages)}" for dataset, stages in s["stages"].items()),
            "jobs": s["jobs"],
            "recorded": len(records),
        }
        for s in sets
    ]
    return pd.DataFrame(rows, columns=[*VERSIONS, "dirty", "devices", "stages", "jobs", "recorded"])


def _known(record: dict[str, Any]) -> dict[str, Any]:
    return {key: record["versions"].get(key) for key in (*VERSIONS, "dirty")}


def versions_table(versions: pd.DataFrame) -> TextTable:
    """The rows of `collect_versions` for readers."""
    rows = []
    for row in versions.to_dict("records"):
        alone = row["jobs"] == row["recorded"]
        texts = [_text(row[key])[:12] if key == "commit" else _text(row[key]) for key in VERSIONS]
        if row["dirty"] is True:
            texts[list(VERSIONS).index("commit")] += " + changes"
        rows.append(
            (
                Cell(f"all {row['jobs']} recorded jobs" if alone else row["stages"]),
                Cell(_text(row["devices"])),
                *map(Cell, texts),
            )
        )
    notes = (
        "What each job recorded of itself, a row per set of versions. commit: of the working tree that it ran from, "
        "with + changes where that had some that were in no commit. - where a job could not tell, or left no record.",
    )
    header = ("Stages", "Device", *VERSIONS.values())
    return TextTable(header=header, rows=tuple(rows), notes=notes, text_columns=len(header), title="Versions.")


def _text(value: object) -> str:
    return "-" if value is None or value == "" or value != value else str(value)
