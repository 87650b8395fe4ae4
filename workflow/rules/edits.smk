FIRST_RUN = f"results/{{dataset}}/run{plan.runs[0]}"


use rule stage as measure_edits with:
    input:
        support="results/{dataset}/run{run}/hsfm/support.parquet",
        train=f"{EMBEDDINGS}/train.parquet",
        val=f"{EMBEDDINGS}/val.parquet",
    output:
        edits="results/{dataset}/run{run}/hsfm/edits.parquet",
    log:
        "logs/{dataset}/run{run}/measure_edits.log",
    threads: plan.config["training_threads"]
    params:
        **code_of("measure_edits"),
        edits=plan.section("edits"),
    message:
        "Measuring what HSFM's edits mean on {wildcards.dataset}, run {wildcards.run}"


use rule stage_on_device as decode_edits with:
    input:
        images="results/{dataset}/images.parquet",
        edits=f"{FIRST_RUN}/hsfm/edits.parquet",
        support=f"{FIRST_RUN}/hsfm/support.parquet",
        standardization=f"{FIRST_RUN}/erm/standardization.safetensors",
        extra=extras.needs_extra("unCLIP"),
    output:
        f"{FIRST_RUN}/hsfm/decoded.parquet",
    log:
        "logs/{dataset}/decode_edits.log",
    params:
        **code_of("decode_edits"),
        unclip=plan.section("unclip"),
        stamps=lambda wildcards: folder_stamp(plan.section("unclip/model/name")(wildcards)),
        clip=plan.clip_stamp,
        backbone=plan.section("backbone"),
        transform=plan.section("transform"),
    message:
        "Decoding HSFM's edits of {wildcards.dataset} into pictures"
