"""Write the tables of what the run cost, of its settings and of the versions it was made with."""

from hsfm.core import job
from hsfm.core.text_tables import write_tables
from hsfm.report.cost_tables import costs_table, stages_table, with_methods
from hsfm.report.costs import method_costs, of_plan, read_costs, stage_costs
from hsfm.report.settings_table import list_settings, settings_table
from hsfm.report.versions import collect_versions, versions_table

job.start(snakemake.log[0])
plan = snakemake.params.run
costs = of_plan(read_costs("logs"), plan["methods"], plan["runs"], plan["seeds"])
made = {
    "costs": (with_methods(method_costs(costs), plan["methods"]), costs_table),
    "stages": (stage_costs(costs), stages_table),
    "settings": (list_settings(plan["settings"]), settings_table),
    "versions": (collect_versions(costs), versions_table),
}
write_tables(snakemake.output, {name: (frame, text(frame)) for name, (frame, text) in made.items()})
job.finish("Costs, settings and versions", ", ".join(path for path in snakemake.output if path.endswith(".md")))
