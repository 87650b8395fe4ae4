MASKS = "results/{dataset}/run{run}/erm/masks/{source}/{split}.parquet"
HEAT_MAP_MASKS = MASKS.replace("{source}", "heat_map")
DAC_SEED = "results/{dataset}/run{run}/dac/seed{seed}"


use rule stage_on_device as make_masks with:
    input:
        **ERM_NETWORK,
        **plan.images,
    output:
        masks=plan.sharded("masks", HEAT_MAP_MASKS),
    log:
        f"logs/{{dataset}}/run{{run}}/make_masks_{{split}}{plan.log_suffix('masks')}.log",
    params:
        **code_of("make_masks"),
        transform=plan.section("transform"),
        masks=plan.section("masks", without=("source",)),
    message:
        "Masking the {wildcards.split} images of {wildcards.dataset}, run {wildcards.run}"


if plan.shards["masks"] > 1:

    use rule stage as gather_masks with:
        input:
            shards=gather.masks(in_shard(HEAT_MAP_MASKS), allow_missing=True),
        output:
            masks=HEAT_MAP_MASKS,
        log:
            "logs/{dataset}/run{run}/gather_masks_{split}.log",
        params:
            **code_of("gather_shards"),
        message:
            "Gathering the masks of the {wildcards.split} images of {wildcards.dataset}, run {wildcards.run}"


use rule stage as take_masks with:
    input:
        images="results/{dataset}/images.parquet",
        checkpoint=ERM_NETWORK["checkpoint"],
    output:
        masks=MASKS.replace("{source}", "dataset"),
    log:
        "logs/{dataset}/run{run}/take_masks_{split}.log",
    params:
        **code_of("take_masks"),
        images=plan.section("images"),
        transform=plan.section("transform"),
    message:
        "Taking the masks of {wildcards.dataset} that it knows, {wildcards.split}"


use rule stage_on_device as fit_dac with:
    input:
        **ERM_NETWORK,
        **plan.images,
        train=f"{EMBEDDINGS}/train.parquet",
        val=f"{EMBEDDINGS}/val.parquet",
        masks=plan.masks_for("masks", "source"),
    output:
        heads=f"{DAC_SEED}/heads.safetensors",
        history=f"{DAC_SEED}/history.parquet",
    log:
        "logs/{dataset}/run{run}/fit_dac_seed{seed}.log",
    wildcard_constraints:
        dataset=one_of([name for name in plan.with_images if name not in plan.drifting]),
    params:
        **code_of("fit_dac"),
        dac=plan.section("dac"),
        transform=plan.section("transform"),
        standardized=plan.section("embeddings/standardize"),
    message:
        "Fitting DaC on {wildcards.dataset}, run {wildcards.run}, seed {wildcards.seed}"


# Where BatchNorm drifts, each seed has a network of its own.
use rule fit_dac as fit_drifting_dac with:
    output:
        heads=f"{DAC_SEED}/heads.safetensors",
        history=f"{DAC_SEED}/history.parquet",
        checkpoint=f"{DAC_SEED}/backbone.safetensors",
    wildcard_constraints:
        dataset=one_of(plan.drifting),


use rule stage as gather_heads with:
    input:
        heads=expand(
            "results/{dataset}/run{run}/{method}/seed{seed}/heads.safetensors",
            seed=plan.seeds,
            allow_missing=True,
        ),
    output:
        heads="results/{dataset}/run{run}/{method}/heads.safetensors",
    log:
        "logs/{dataset}/run{run}/gather_heads_{method}.log",
    wildcard_constraints:
        method="dac|ddb",
    localrule: True
    params:
        **code_of("gather_heads"),
    message:
        "Gathering the {wildcards.method} heads of {wildcards.dataset}, run {wildcards.run}"
