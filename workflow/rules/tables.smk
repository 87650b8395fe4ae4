rule make_tables:
    input:
        # method by method: their order in the tables is that in which they come
        scores=RESULTS_OF_HEADS["scores"],
        predictions=RESULTS_OF_HEADS["predictions"],
        code=uses("workflow/scripts/make_tables.py"),
    output:
        reported(TABLES),
    log:
        "logs/make_tables.log",
    benchmark:
        "logs/make_tables.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(1000, predictions=100),
        runtime=10,
    params:
        published=WITH_PUBLISHED,
    message:
        "Making the tables"
    script:
        "../scripts/make_tables.py"


# What jobs have left in logs/ is no input: deleting it makes nothing stale. Results are, so that it comes after them.
rule describe_run:
    input:
        scores=RESULTS_OF_HEADS["scores"],
        edits=expand("results/{dataset}/run{run}/hsfm/edits.parquet", dataset=WITH_EDITS, run=RUNS),
        studies=expand("results/{dataset}/run{run}/studies/{study}.parquet", dataset=DATASETS, run=RUNS, study=STUDIES),
        code=uses("workflow/scripts/describe_run.py"),
    output:
        reported(TABLES_OF_RUN),
    log:
        "logs/describe_run.log",
    benchmark:
        "logs/describe_run.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=10,
    params:
        run=DESCRIPTION,
    message:
        "Making the tables of costs, settings and versions"
    script:
        "../scripts/describe_run.py"


rule save_config:
    input:
        code=uses("workflow/scripts/save_config.py"),
    output:
        config="results/config.yaml",
    log:
        "logs/save_config.log",
    benchmark:
        "logs/save_config.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=10,
    params:
        config=SAVED_CONFIG,
    message:
        "Saving the configuration"
    script:
        "../scripts/save_config.py"
