use rule stage as write_card with:
    input:
        images="results/{dataset}/images.parquet",
    output:
        card="results/{dataset}/card.md",
        counts="results/{dataset}/counts.csv",
    log:
        "logs/{dataset}/write_card.log",
    params:
        **code_of("write_card"),
    message:
        "Describing {wildcards.dataset}"


rule describe:
    input:
        expand("results/{dataset}/card.md", dataset=plan.with_images),
        expand("results/figures/{dataset}/examples.png", dataset=plan.with_images),
