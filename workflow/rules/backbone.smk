rule train_erm:
    input:
        images="results/{dataset}/images.parquet",
        pixels="results/{dataset}/pixels.npy",
        code=uses("workflow/scripts/train_erm.py"),
    output:
        checkpoint="results/{dataset}/run{run}/erm/backbone.safetensors",
        history="results/{dataset}/run{run}/erm/history.parquet",
    log:
        "logs/{dataset}/run{run}/train_erm.log",
    benchmark:
        "logs/{dataset}/run{run}/train_erm.tsv"
    priority: 50
    conda:
        "../../environment.yml"
    threads: config["training_threads"]
    resources:
        gpu=gpus,
    params:
        backbone=setting("backbone"),
        transform=setting("transform"),
        augmentation=setting("augmentation"),
        training=setting("erm"),
        device=config["device"],
    message:
        "Training {wildcards.dataset}, run {wildcards.run}, by ERM"
    script:
        "../scripts/train_erm.py"


rule extract_embeddings:
    input:
        images="results/{dataset}/images.parquet",
        pixels="results/{dataset}/pixels.npy",
        checkpoint="results/{dataset}/run{run}/erm/backbone.safetensors",
        code=uses("workflow/scripts/extract_embeddings.py"),
    output:
        expand("results/{{dataset}}/run{{run}}/erm/embeddings/{split}.parquet", split=SPLITS),
    log:
        "logs/{dataset}/run{run}/extract_embeddings.log",
    benchmark:
        "logs/{dataset}/run{run}/extract_embeddings.tsv"
    priority: 50
    conda:
        "../../environment.yml"
    threads: config["training_threads"]
    resources:
        gpu=gpus,
    params:
        transform=setting("transform"),
        settings=setting("embeddings"),
        device=config["device"],
    message:
        "Embedding {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/extract_embeddings.py"
