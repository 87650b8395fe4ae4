# Records of jobs in logs/ are no inputs: deleting them makes nothing stale. Results are, so that this comes after them.
use rule stage as make_tables with:
    input:
        # method by method: their order in the tables is that in which they come
        scores=plan.results_of_heads("scores"),
        predictions=plan.results_of_heads("predictions"),
        edits=plan.edits,
        studies=[file for study in plan.studies for file in plan.of_study(study, *plan.datasets)],
    output:
        reported(results.of_all),
    log:
        "logs/make_tables.log",
    priority: 10  # before figures
    localrule: True
    params:
        **code_of("make_tables"),
        published=plan.published,
        methods={dataset: plan.methods_of(dataset) for dataset in plan.datasets},
        seeds={"runs": plan.runs, "seeds": sorted({*plan.seeds, *plan.runs})},
        stages=STAGES,
    message:
        "Making the tables"


for STUDY in plan.studies:

    rule:
        name:
            f"tabulate_{STUDY}"
        input:
            results=plan.of_study(STUDY, *plan.datasets),
        output:
            reported(table_files(STUDY)),
        log:
            f"logs/tabulate_{STUDY}.log",
        localrule: True
        conda:
            "../../environment.yml"
        params:
            **code_of("tabulate_study"),
        message:
            f"Making the table of {STUDY}"
        script:
            "../scripts/{params.script}.py"


use rule stage as write_report with:
    input:
        **results.on_page,
        results=plan.results_of_heads("scores"),
        numbers="results/tables/uncertainty.csv",
        stages="results/tables/stages.csv",
        versions="results/tables/versions.csv",
        captions=results.captions,
    output:
        page=results.page,
        config=SAVED_CONFIG,
    log:
        "logs/write_report.log",
    localrule: True
    params:
        **code_of("write_report", *PAGE, *results.caption_files),
        command=f"snakemake --configfile {SAVED_CONFIG} --cores 2",
        config=plan.saved_config,
    message:
        "Writing the report"
