use rule stage as describe_images with:
    input:
        images=IMAGES,
        pixels=plan.pixels,
    output:
        card="results/{dataset}/card.md",
        counts="results/{dataset}/counts.csv",
        examples=reported(figure_files("examples")),
    log:
        "logs/{dataset}/describe_images.log",
    localrule: True
    params:
        **code_of("describe_images", STYLE),
    message:
        "Describing {wildcards.dataset}"


rule describe:
    input:
        expand("results/{dataset}/card.md", dataset=plan.with_images),
        expand("results/figures/{dataset}/examples.png", dataset=plan.with_images),
