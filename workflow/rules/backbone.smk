EMBEDDINGS = "results/{dataset}/run{run}/erm/embeddings"
ERM_NETWORK = {
    name: f"results/{{dataset}}/run{{run}}/erm/{file}.safetensors"
    for name, file in {"checkpoint": "backbone", "heads": "heads", "standardisation": "standardisation"}.items()
}
# A network: ERM's, or of a method that has features of its own, one or one per seed.
NETWORK = "results/{dataset}/run{run}/{network}"
EMBEDDED = {split: f"{NETWORK}/embeddings/{split}.parquet" for split in SPLITS}
# How networks are trained, but for what the rules differ in.
TRAINING = {
    "backbone": setting("backbone"),
    "transform": setting("transform"),
    "augmentation": setting("augmentation"),
    "files": stamps_of("backbone", "weights"),
    "decode_size": decode_size,
    "device": config["device"],
    "compute": COMPUTE,
}
STANDARDISATION = {"standardisation": f"{NETWORK}/standardisation.safetensors"}
EMBEDDINGS_OF_SPLITS = {split: f"{EMBEDDINGS}/{split}.parquet" for split in SPLITS}


rule train_erm:
    input:
        images="results/{dataset}/images.parquet",
        pixels=packed,
        cache=decoded,
        weights=files_in("backbone", "weights"),
        code=uses("workflow/scripts/train_erm.py"),
    output:
        checkpoint="results/{dataset}/run{run}/erm/backbone.safetensors",
        history="results/{dataset}/run{run}/erm/history.parquet",
    log:
        "logs/{dataset}/run{run}/train_erm.log",
    benchmark:
        "logs/{dataset}/run{run}/train_erm.tsv"
    wildcard_constraints:
        dataset=one_of(TRAINED),
    priority: 50
    conda:
        "../../environment.yml"
    threads: config["training_threads"]
    resources:
        gpu=gpus_to_train,
        mem_mb=memory(8000 * config["training_gpus"], images=IN_MEMORY * config["training_gpus"]),
        runtime=1440,
    params:
        **TRAINING,
        training=erm_settings,
    message:
        "Training {wildcards.dataset}, run {wildcards.run}, by ERM"
    script:
        "../scripts/train_erm.py"


rule take_backbone:
    input:
        images="results/{dataset}/images.parquet",
        files=files_in("backbone", "weights", "checkpoint"),
        code=uses("workflow/scripts/take_backbone.py"),
    output:
        checkpoint="results/{dataset}/run{run}/erm/backbone.safetensors",
    log:
        "logs/{dataset}/run{run}/take_backbone.log",
    benchmark:
        "logs/{dataset}/run{run}/take_backbone.tsv"
    wildcard_constraints:
        dataset=one_of(TAKEN),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=30,
    params:
        backbone=setting("backbone"),
        transform=setting("transform"),
        files=stamps_of("backbone", "weights", "checkpoint"),
        clip=clip_stamp,
    message:
        "Taking the backbone of {wildcards.dataset} as it is"
    script:
        "../scripts/take_backbone.py"


rule extract_embeddings:
    input:
        images="results/{dataset}/images.parquet",
        pixels=packed,
        cache=decoded,
        checkpoint=f"{NETWORK}/backbone.safetensors",
        code=uses("workflow/scripts/extract_embeddings.py"),
    output:
        **{split: sharded("embedding", path) for split, path in EMBEDDED.items()},
        **(STANDARDISATION if SHARDS["embedding"] == 1 else {}),
    log:
        f"logs/{{dataset}}/run{{run}}/{{network}}/extract_embeddings{suffix('embedding')}.log",
    benchmark:
        f"logs/{{dataset}}/run{{run}}/{{network}}/extract_embeddings{suffix('embedding')}.tsv"
    wildcard_constraints:
        dataset=one_of(WITH_IMAGES),
    priority: 50
    conda:
        "../../environment.yml"
    threads: config["training_threads"]
    resources:
        gpu=gpus,
        mem_mb=memory(8000),
        runtime=720,
    params:
        transform=setting("transform"),
        settings=embedding_settings,
        decode_size=decode_size,
        device=config["device"],
        compute=COMPUTE,
    message:
        "Embedding {wildcards.dataset}, run {wildcards.run}, with the network of {wildcards.network}"
    script:
        "../scripts/extract_embeddings.py"


if SHARDS["embedding"] > 1:

    rule gather_embeddings:
        input:
            **{split: of_shards("embedding", path) for split, path in EMBEDDED.items()},
            code=uses("workflow/scripts/gather_embeddings.py"),
        output:
            **EMBEDDED,
            **STANDARDISATION,
        log:
            "logs/{dataset}/run{run}/{network}/gather_embeddings.log",
        benchmark:
            "logs/{dataset}/run{run}/{network}/gather_embeddings.tsv"
        wildcard_constraints:
            dataset=one_of(WITH_IMAGES),
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=memory(2000),
            runtime=1440,
        params:
            settings=embedding_settings,
        message:
            "Gathering the embeddings of {wildcards.dataset}, run {wildcards.run}, with the network of {wildcards.network}"
        script:
            "../scripts/gather_embeddings.py"


rule import_embeddings:
    input:
        files=files_in("embeddings", *SPLITS),
        code=uses("workflow/scripts/import_embeddings.py"),
    output:
        **EMBEDDINGS_OF_SPLITS,
    log:
        "logs/{dataset}/run{run}/import_embeddings.log",
    benchmark:
        "logs/{dataset}/run{run}/import_embeddings.tsv"
    wildcard_constraints:
        dataset=one_of(GIVEN),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000, files=4),
        runtime=60,
    params:
        settings=setting("embeddings"),
        files=stamps_of("embeddings", *SPLITS),
    message:
        "Importing the embeddings of {wildcards.dataset}"
    script:
        "../scripts/import_embeddings.py"
