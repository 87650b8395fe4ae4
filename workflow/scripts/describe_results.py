"""Write the tables of what the run cost, and of the versions it was made with."""

from hsfm.core import job
from hsfm.core.text_tables import write_tables
from hsfm.report import costs
from hsfm.report.versions import collect_versions, versions_table

job.start(snakemake.log[0])
methods, stages = snakemake.params.methods, costs.Stages(**snakemake.params.stages)
jobs = costs.of_plan(costs.read_costs("logs", stages), list(methods), **snakemake.params.seeds, stages=stages)
made = {
    "costs": (costs.mean_costs(costs.method_costs(jobs, stages), methods), costs.costs_table),
    "stages": (costs.stage_costs(jobs), costs.stages_table),
    "versions": (collect_versions(jobs), versions_table),
}
write_tables(snakemake.output, {name: (frame, text(frame)) for name, (frame, text) in made.items()})
job.finish("Costs and versions", ", ".join(path for path in snakemake.output if path.endswith(".md")))
