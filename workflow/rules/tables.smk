use rule stage as make_tables with:
    input:
        # method by method: their order in the tables is that in which they come
        scores=plan.results_of_heads("scores"),
        predictions=plan.results_of_heads("predictions"),
    output:
        reported(results.main),
    log:
        "logs/make_tables.log",
    localrule: True
    params:
        **code_of("make_tables"),
        published=plan.published,
    message:
        "Making the tables"


for TABLE, (SCRIPT, FILES) in results.tabulated.items():

    rule:
        name:
            f"tabulate_{TABLE}"
        input:
            results=FILES,
        output:
            reported(table_files(TABLE)),
        log:
            f"logs/tabulate_{TABLE}.log",
        localrule: True
        conda:
            "../../environment.yml"
        params:
            **code_of(SCRIPT),
        message:
            f"Making the table of {TABLE}"
        script:
            "../scripts/{params.script}.py"


# What jobs have left in logs/ is no input: deleting it makes nothing stale. Results are, so that it comes after them.
use rule stage as describe_results with:
    input:
        scores=plan.results_of_heads("scores"),
        edits=plan.edits,
        studies=[file for study in plan.studies for file in plan.of_study(study, *plan.datasets)],
    output:
        reported(results.of_jobs),
    log:
        "logs/describe_results.log",
    localrule: True
    params:
        **code_of("describe_results"),
        methods={dataset: plan.methods_of(dataset) for dataset in plan.datasets},
        seeds={"runs": plan.runs, "seeds": sorted({*plan.seeds, *plan.runs})},
        stages=STAGES,
    message:
        "Making the tables of costs and versions"


use rule stage as save_config with:
    output:
        config=SAVED_CONFIG,
    log:
        "logs/save_config.log",
    localrule: True
    params:
        **code_of("save_config"),
        config=plan.saved_config,
    message:
        "Saving the configuration"


use rule stage as write_report with:
    input:
        **results.on_page,
        results=plan.results_of_heads("scores"),
        numbers="results/tables/uncertainty.csv",
        stages="results/tables/stages.csv",
        versions="results/tables/versions.csv",
        config=SAVED_CONFIG,
        captions=results.captions,
    output:
        results.page,
    log:
        "logs/write_report.log",
    localrule: True
    params:
        **code_of("write_report", *PAGE, *results.caption_files),
        command=f"snakemake --configfile {SAVED_CONFIG} --cores 2",
    message:
        "Writing the report"
