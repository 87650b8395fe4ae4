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
        TABLES,
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


rule draw_figure:
    input:
        unpack(inputs_of_figure),
        code=uses("workflow/scripts/draw_figure.py"),
    output:
        multiext("results/figures/{dataset}/{figure}", ".png", ".pdf"),
    log:
        "logs/{dataset}/draw_{figure}.log",
    benchmark:
        "logs/{dataset}/draw_{figure}.tsv"
    wildcard_constraints:
        figure="examples|training|groups|hard_set",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=10,
    message:
        "Drawing {wildcards.figure} of {wildcards.dataset}"
    script:
        "../scripts/draw_figure.py"


rule write_card:
    input:
        images="results/{dataset}/images.parquet",
        code=uses("workflow/scripts/write_card.py"),
    output:
        card="results/{dataset}/card.md",
        counts="results/{dataset}/counts.csv",
    log:
        "logs/{dataset}/write_card.log",
    benchmark:
        "logs/{dataset}/write_card.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=10,
    message:
        "Describing {wildcards.dataset}"
    script:
        "../scripts/write_card.py"


rule describe:
    input:
        expand("results/{dataset}/card.md", dataset=WITH_IMAGES),
        expand("results/figures/{dataset}/examples.png", dataset=WITH_IMAGES),
