DDB = "results/{dataset}/run{run}/ddb"
GENERATED = f"{DDB}/generated.parquet"
DDB_SEED = f"{DDB}/seed{{seed}}"
TOKEN = "results/{dataset}/tokens/class{label}"


use rule stage as choose_sources with:
    input:
        train=f"{EMBEDDINGS}/train.parquet",
        heads=ERM_NETWORK["heads"],
        extra=extras.needs_extra("DDB"),
    output:
        sources=f"{DDB}/sources.parquet",
    log:
        "logs/{dataset}/run{run}/choose_sources.log",
    params:
        **code_of("choose_sources"),
        ddb=plan.sections("sources_per_class", of="ddb"),
    message:
        "Choosing the images that ERM finds easiest: {wildcards.dataset}, run {wildcards.run}"


use rule stage_on_device as learn_token with:
    input:
        images=IMAGES,
        pixels=plan.pixels,
    output:
        token=f"{TOKEN}.safetensors",
        history=f"{TOKEN}.parquet",
    log:
        "logs/{dataset}/learn_token_{label}.log",
    params:
        **code_of("learn_token"),
        models=plan.models("text_to_image"),
        token=plan.section("ddb/token"),
    message:
        "Learning a word for class {wildcards.label} of {wildcards.dataset}"


use rule stage_on_device as segment_objects with:
    input:
        **plan.images,
        sources=f"{DDB}/sources.parquet",
    output:
        objects=f"{DDB}/objects.parquet",
    log:
        "logs/{dataset}/run{run}/segment_objects.log",
    wildcard_constraints:
        dataset=one_of(plan.with_ddb_by("diffusion")),
    params:
        **code_of("segment_objects"),
        models=plan.models("detector", "segmenter"),
        segment=plan.section("ddb/segment"),
    message:
        "Finding the objects of {wildcards.dataset}, run {wildcards.run}"


use rule stage as take_objects with:
    input:
        **plan.images,
        sources=f"{DDB}/sources.parquet",
        masks=plan.masks_for("ddb", "cut_paste", "masks"),
    output:
        objects=f"{DDB}/objects.parquet",
    log:
        "logs/{dataset}/run{run}/take_objects.log",
    wildcard_constraints:
        dataset=one_of(plan.with_ddb_by("cut_paste")),
    params:
        **code_of("take_objects"),
        transform=plan.section("transform"),
    message:
        "Taking the objects of {wildcards.dataset}, run {wildcards.run}, out of masks"


use rule stage_on_device as inpaint_objects with:
    input:
        **plan.images,
        objects=f"{DDB}/objects.parquet",
        tokens=plan.tokens,
    output:
        generated=plan.sharded("generation", GENERATED),
    log:
        f"logs/{{dataset}}/run{{run}}/inpaint_objects{plan.log_suffix('generation')}.log",
    wildcard_constraints:
        dataset=one_of(plan.with_ddb_by("diffusion")),
    params:
        **code_of("inpaint_objects"),
        models=plan.models("inpainting"),
        ddb=plan.sections("images_per_source", "inpaint", "seed", of="ddb"),
    message:
        "Inpainting the objects of {wildcards.dataset}, run {wildcards.run}, as other classes"


use rule stage as paste_objects with:
    input:
        **plan.images,
        objects=f"{DDB}/objects.parquet",
    output:
        generated=plan.sharded("generation", GENERATED),
    log:
        f"logs/{{dataset}}/run{{run}}/paste_objects{plan.log_suffix('generation')}.log",
    wildcard_constraints:
        dataset=one_of(plan.with_ddb_by("cut_paste")),
    params:
        **code_of("paste_objects"),
        ddb=plan.sections("cut_paste", "images_per_source", "seed", of="ddb"),
    message:
        "Pasting objects of {wildcards.dataset}, run {wildcards.run}, into other scenes"


if plan.shards["generation"] > 1:

    use rule long_stage as gather_generated with:
        input:
            shards=gather.generation(in_shard(GENERATED), allow_missing=True),
        output:
            generated=GENERATED,
        log:
            "logs/{dataset}/run{run}/gather_generated.log",
        params:
            **code_of("gather_shards"),
        message:
            "Gathering the generated images of {wildcards.dataset}, run {wildcards.run}"


use rule stage_on_device as prune_generated with:
    input:
        **ERM_NETWORK,
        **plan.images,
        train=f"{EMBEDDINGS}/train.parquet",
        generated=GENERATED,
    output:
        pruned=f"{DDB}/pruned.parquet",
    log:
        "logs/{dataset}/run{run}/prune_generated.log",
    params:
        **code_of("prune_generated"),
        prune=plan.section("ddb/prune"),
        transform=plan.section("transform"),
    message:
        "Pruning the generated images of {wildcards.dataset}, run {wildcards.run}"


use rule stage_on_device as fit_ddb with:
    input:
        **ERM_NETWORK,
        **plan.images,
        train=f"{EMBEDDINGS}/train.parquet",
        val=f"{EMBEDDINGS}/val.parquet",
        generated=GENERATED,
        pruned=f"{DDB}/pruned.parquet",
    output:
        checkpoint=f"{DDB_SEED}/backbone.safetensors",
        heads=f"{DDB_SEED}/heads.safetensors",
        history=f"{DDB_SEED}/history.parquet",
    log:
        "logs/{dataset}/run{run}/fit_ddb_seed{seed}.log",
    params:
        **code_of("fit_ddb"),
        ddb=plan.section("ddb"),
        transform=plan.section("transform"),
        augmentation=plan.section("augmentation"),
    message:
        "Retraining the network of {wildcards.dataset}, run {wildcards.run}, beside generated images, seed {wildcards.seed}"
