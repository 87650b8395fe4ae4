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
