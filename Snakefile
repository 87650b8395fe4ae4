"""From images to tables: ERM training, embeddings, hard sets, HSFM and its rivals, scores, tables, figures."""

from snakemake.utils import min_version

min_version("9.0")


configfile: "config/config.yaml"


include: "workflow/rules/configuration.smk"


check_config(config)
check_writable(".")


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/backbone.smk"
include: "workflow/rules/heads.smk"
include: "workflow/rules/dac.smk"
include: "workflow/rules/ddb.smk"
include: "workflow/rules/edits.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/studies.smk"
include: "workflow/rules/export.smk"


rule all:
    default_target: True
    input:
        TABLES,
        TABLES_OF_STUDIES,
        TABLES_OF_EDITS,
        FIGURES,


onstart:
    check_writable("results", "logs")


onsuccess:
    if Path("results/tables/main.md").exists():
        logger.info(
            f"\n{Path('results/tables/main.md').read_text()}\nTables: results/tables, figures: results/figures"
        )
