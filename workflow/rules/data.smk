rule prepare_images:
    input:
        code=uses("workflow/scripts/prepare_images.py"),
    output:
        images="results/{dataset}/images.parquet",
        pixels="results/{dataset}/pixels.npy",
    log:
        "logs/{dataset}/prepare_images.log",
    benchmark:
        "logs/{dataset}/prepare_images.tsv"
    conda:
        "../../environment.yml"
    threads: 2
    params:
        settings=setting("images"),
    message:
        "Preparing the images of {wildcards.dataset}"
    script:
        "../scripts/prepare_images.py"
