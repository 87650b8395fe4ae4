"""Write the tables of what the run cost, of its settings and of the versions it was made with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from hsfm.core import job
from hsfm.core.text_tables import TextTable, write_table
from hsfm.report import cost_tables, settings_table, versions
from hsfm.report.costs import method_costs, read_costs, stage_costs


def describe_run(run: Mapping[str, Any], outputs: list[str]) -> None:
    """run: the methods of every dataset, runs, seeds and settings."""
    costs = of_this_run(read_costs("logs"), run)
    done = {
        "costs": of_methods(costs, run["methods"]),
        "stages": of_stages(costs),
        "settings": of_settings(run["settings"]),
        "versions": of_versions(costs),
    }
    for path in outputs:
        write_table(path, *done[Path(path).stem])


def of_this_run(costs: pd.DataFrame, run: Mapping[str, Any]) -> pd.DataFrame:
    """Logs may hold more: of other datasets, of figures that were drawn meanwhile."""
    mine = (
        costs["dataset"].isin(run["methods"])
        & (costs["run"].isna() | costs["run"].isin(run["runs"]))
        & (costs["seed"].isna() | costs["seed"].isin(run["seeds"]))
        & ~costs["stage"].str.match("draw_|write_card|export_model|decode_edits")
    )
    order = list(run["methods"])
    return costs[mine].sort_values("dataset", key=lambda names: names.map(order.index), kind="stable")


def of_methods(costs: pd.DataFrame, methods: Mapping[str, list[str]]) -> tuple[pd.DataFrame, TextTable]:
    frame = cost_tables.with_methods(method_costs(costs), methods)
    return frame, cost_tables.costs_table(frame)


def of_stages(costs: pd.DataFrame) -> tuple[pd.DataFrame, TextTable]:
    frame = stage_costs(costs)
    return frame, cost_tables.stages_table(frame)


def of_settings(settings: Mapping[str, Any]) -> tuple[pd.DataFrame, TextTable]:
    frame = settings_table.list_settings(settings)
    return frame, settings_table.settings_table(frame)


def of_versions(costs: pd.DataFrame) -> tuple[pd.DataFrame, TextTable]:
    frame = versions.collect_versions(costs)
    return frame, versions.versions_table(frame)


job.start(snakemake.log[0])
describe_run(snakemake.params.run, list(snakemake.output))
job.finish("Costs, settings and versions", ", ".join(path for path in snakemake.output if path.endswith(".md")))
