EMBEDDINGS = "results/{dataset}/run{run}/erm/embeddings"
ERM_NETWORK = {
    name: f"results/{{dataset}}/run{{run}}/erm/{file}.safetensors"
    for name, file in {"checkpoint": "backbone", "heads": "heads", "standardization": "standardization"}.items()
}
# A network: ERM's, or of a method that has features of its own, one or one per seed.
NETWORK = "results/{dataset}/run{run}/{network}"
EMBEDDED = {split: f"{NETWORK}/embeddings/{split}.parquet" for split in SPLITS}
STANDARDIZATION = {"standardization": f"{NETWORK}/standardization.safetensors"}
EMBEDDINGS_OF_SPLITS = {split: f"{EMBEDDINGS}/{split}.parquet" for split in SPLITS}


use rule stage as train_erm with:
    input:
        **plan.images,
        weights=plan.files_in("backbone", "weights"),
    output:
        checkpoint="results/{dataset}/run{run}/erm/backbone.safetensors",
        history="results/{dataset}/run{run}/erm/history.parquet",
    log:
        "logs/{dataset}/run{run}/train_erm.log",
    wildcard_constraints:
        dataset=one_of(plan.trained),
    priority: 50
    threads: plan.config["training_threads"]
    resources:
        gpu=gpus(workflow, plan.config["device"], plan.config["training_gpus"]),
        mem_mb=memory(8000, times=plan.config["training_gpus"]),
        runtime=1440,
    params:
        **code_of("train_erm"),
        backbone=plan.section("backbone"),
        transform=plan.section("transform"),
        augmentation=plan.section("augmentation"),
        files=plan.stamps_of("backbone", "weights"),
        decode_size=plan.decode_size,
        device=plan.config["device"],
        compute=plan.compute,
        training=plan.section("erm", without=("holdout", "on_share"), unless_null=("early_epoch",)),
    message:
        "Training {wildcards.dataset}, run {wildcards.run}, by ERM"


use rule stage as take_backbone with:
    input:
        images="results/{dataset}/images.parquet",
        files=plan.files_in("backbone", "weights", "checkpoint"),
    output:
        checkpoint="results/{dataset}/run{run}/erm/backbone.safetensors",
    log:
        "logs/{dataset}/run{run}/take_backbone.log",
    wildcard_constraints:
        dataset=one_of([name for name in plan.with_images if name not in plan.trained]),
    params:
        **code_of("take_backbone"),
        backbone=plan.section("backbone"),
        transform=plan.section("transform"),
        files=plan.stamps_of("backbone", "weights", "checkpoint"),
        clip=plan.clip_stamp,
    message:
        "Taking the backbone of {wildcards.dataset} as it is"


use rule stage_on_device as extract_embeddings with:
    input:
        **plan.images,
        checkpoint=f"{NETWORK}/backbone.safetensors",
    output:
        **{split: plan.sharded("embedding", path) for split, path in EMBEDDED.items()},
        **(STANDARDIZATION if plan.shards["embedding"] == 1 else {}),
    log:
        f"logs/{{dataset}}/run{{run}}/{{network}}/extract_embeddings{plan.log_suffix('embedding')}.log",
    wildcard_constraints:
        dataset=one_of(plan.with_images),
    resources:
        gpu=gpu,
        runtime=1440,
        # features of a split twice: 16.8 kB an image at d = 2048, 1300 times its row in the file of the table
        mem_mb=memory(16000, images=IN_MEMORY["images"] + 1300 // plan.shards["embedding"]),
    params:
        **code_of("extract_embeddings"),
        transform=plan.section("transform"),
        settings=plan.embedding_settings,
    message:
        "Embedding {wildcards.dataset}, run {wildcards.run}, with the network of {wildcards.network}"


if plan.shards["embedding"] > 1:

    use rule long_stage as gather_embeddings with:
        input:
            **{split: gather.embedding(in_shard(path), allow_missing=True) for split, path in EMBEDDED.items()},
        output:
            **EMBEDDED,
            **STANDARDIZATION,
        log:
            "logs/{dataset}/run{run}/{network}/gather_embeddings.log",
        params:
            **code_of("gather_embeddings"),
            settings=plan.embedding_settings,
        message:
            "Gathering the embeddings of {wildcards.dataset}, run {wildcards.run}, with the network of {wildcards.network}"


use rule stage as import_embeddings with:
    input:
        files=plan.files_in("embeddings", *SPLITS),
    output:
        **EMBEDDINGS_OF_SPLITS,
    log:
        "logs/{dataset}/run{run}/import_embeddings.log",
    wildcard_constraints:
        dataset=one_of(plan.given),
    params:
        **code_of("import_embeddings"),
        settings=plan.section("embeddings"),
        files=plan.stamps_of("embeddings", *SPLITS),
    message:
        "Importing the embeddings of {wildcards.dataset}"
