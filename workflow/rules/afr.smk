AFR = "results/{dataset}/run{run}/afr"


# ERM on a share of the training images, in a folder of its own; AFR's head is fitted on the rest.
use rule train_erm as train_on_share with:
    output:
        checkpoint=f"{AFR}/backbone.safetensors",
        history=f"{AFR}/training.parquet",
    log:
        "logs/{dataset}/run{run}/train_on_share.log",
    benchmark:
        "logs/{dataset}/run{run}/train_on_share.tsv"
    params:
        training=plan.section("erm"),
    message:
        "Training {wildcards.dataset}, run {wildcards.run}, by ERM on a share of the images"


use rule stage as fit_afr with:
    input:
        checkpoint=f"{AFR}/backbone.safetensors",
        train=f"{AFR}/embeddings/train.parquet",
        val=f"{AFR}/embeddings/val.parquet",
    output:
        heads=f"{AFR}/heads.safetensors",
        history=f"{AFR}/history.parquet",
    log:
        "logs/{dataset}/run{run}/fit_afr.log",
    benchmark:
        "logs/{dataset}/run{run}/fit_afr.tsv"
    wildcard_constraints:
        dataset=one_of(plan.where(lambda settings: settings.get("afr"))),
    priority: 50
    threads: plan.config["training_threads"]
    resources:
        gpu=gpu,
        mem_mb=memory(4000, train=3, val=3),
        runtime=240,
    params:
        **code_of("fit_afr"),
        settings=plan.section("afr"),
        device=plan.config["device"],
    message:
        "Fitting AFR on {wildcards.dataset}, run {wildcards.run}"
