rule make_tables:
    input:
        # method by method: their order in the tables is that in which they come
        scores=[
            f"results/{dataset}/run{run}/{method}/scores.parquet"
            for method in METHODS
            for dataset in DATASETS
            if method in methods_of(dataset)
            for run in RUNS
        ],
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
        mem_mb=memory(1000),
        runtime=10,
    message:
        "Making the tables"
    script:
        "../scripts/make_tables.py"
