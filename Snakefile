"""From images to tables: ERM training, embeddings, hard sets, HSFM and its rivals, scores, tables, figures."""

import os

from snakemake.utils import min_version

min_version("9.0")


# that beside this file, also under --directory
configfile: os.path.relpath(os.path.join(workflow.basedir, "config", "config.yaml"))


include: "workflow/rules/terminal.smk"
include: "workflow/rules/configuration.smk"


check_config(config)
check_writable(".")


report: "workflow/report/workflow.rst"


if config["container"] is not None:

    container: config["container"]


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/backbone.smk"
include: "workflow/rules/heads.smk"
include: "workflow/rules/afr.smk"
include: "workflow/rules/dac.smk"
include: "workflow/rules/ddb.smk"
include: "workflow/rules/edits.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/studies.smk"
include: "workflow/rules/report.smk"
include: "workflow/rules/card.smk"
include: "workflow/rules/export.smk"


# Seconds of one core on kilobytes: on a cluster a job of their own takes them far longer to start than to run.
localrules:
    read_erm_head,
    gather_heads,
    make_tables,
    describe_run,
    save_config,
    draw_figure,
    draw_comparison,
    tabulate_edits,
    gather_sweep,
    tabulate_study,
    draw_study,
    write_report,


rule all:
    default_target: True
    input:
        TABLES,
        TABLES_OF_RUN,
        TABLES_OF_STUDIES,
        TABLES_OF_EDITS,
        FIGURES,
        REPORT,
        "results/config.yaml",


onstart:
    check_writable("results", "logs")


onsuccess:
    say_what_was_made()


onerror:
    say_what_failed(log)
