rule make_tables:
    input:
        scores=expand("results/{dataset}/run{run}/{method}/scores.parquet", dataset=DATASETS, run=RUNS, method=METHODS),
        code=uses("workflow/scripts/make_tables.py"),
    output:
        TABLES,
    log:
        "logs/make_tables.log",
    benchmark:
        "logs/make_tables.tsv"
    conda:
        "../../environment.yml"
    message:
        "Making the tables"
    script:
        "../scripts/make_tables.py"


rule draw_figures:
    input:
        images="results/{dataset}/images.parquet",
        pixels="results/{dataset}/pixels.npy",
        scores=expand(
            "results/{{dataset}}/run{run}/{method}/scores.parquet", run=RUNS, method=dict.fromkeys(["erm", *METHODS])
        ),
        erm=expand("results/{{dataset}}/run{run}/erm/history.parquet", run=RUNS),
        hsfm=expand("results/{{dataset}}/run{run}/hsfm/history.parquet", run=RUNS if "hsfm" in METHODS else []),
        code=uses("workflow/scripts/draw_figures.py"),
    output:
        expand("results/figures/{{dataset}}/{figure}.{suffix}", figure=FIGURES, suffix=["png", "pdf"]),
    log:
        "logs/{dataset}/draw_figures.log",
    benchmark:
        "logs/{dataset}/draw_figures.tsv"
    conda:
        "../../environment.yml"
    message:
        "Drawing the figures of {wildcards.dataset}"
    script:
        "../scripts/draw_figures.py"
