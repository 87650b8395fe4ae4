FIRST_RUN = f"results/{{dataset}}/run{plan.runs[0]}"
OF_FIRST_RUN = {
    **{name: f"{FIRST_RUN}/hsfm/{name}.parquet" for name in ("edits", "support")},
    **{split: f"{FIRST_RUN}/erm/embeddings/{split}.parquet" for split in ("train", "val")},
}


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


use rule stage as draw_edits with:
    input:
        **OF_FIRST_RUN,
        **plan.images,
    output:
        edits=reported(figure_files("edits")),
        neighbors=reported(figure_files("edit_neighbors")),
    log:
        "logs/{dataset}/draw_edits.log",
    wildcard_constraints:
        dataset=one_of([name for name in plan.with_edits if name in plan.with_images]),
    params:
        **code_of("draw_edits", STYLE),
    message:
        "Drawing what HSFM's edits mean on {wildcards.dataset}"


# Where embeddings were given, there are no pictures of neighbors.
use rule draw_edits as draw_edits_without_images with:
    input:
        **OF_FIRST_RUN,
        cache=[],
    output:
        edits=reported(figure_files("edits")),
    wildcard_constraints:
        dataset=one_of([name for name in plan.with_edits if name in plan.given]),


use rule stage_on_device as decode_edits with:
    input:
        images="results/{dataset}/images.parquet",
        edits=OF_FIRST_RUN["edits"],
        support=OF_FIRST_RUN["support"],
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
