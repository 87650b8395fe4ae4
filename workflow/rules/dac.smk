MASKS = "results/{dataset}/run{run}/erm/masks/{source}/{split}.parquet"
HEAT_MAP_MASKS = MASKS.replace("{source}", "heat_map")
DAC_SEED = "results/{dataset}/run{run}/dac/seed{seed}"


rule make_masks:
    input:
        **ERM_NETWORK,
        images="results/{dataset}/images.parquet",
        pixels=packed,
        cache=decoded,
        code=uses("workflow/scripts/make_masks.py"),
    output:
        masks=sharded("masks", HEAT_MAP_MASKS),
    log:
        f"logs/{{dataset}}/run{{run}}/make_masks_{{split}}{suffix('masks')}.log",
    benchmark:
        f"logs/{{dataset}}/run{{run}}/make_masks_{{split}}{suffix('masks')}.tsv"
    wildcard_constraints:
        dataset=one_of(WITH_IMAGES),
        split=one_of(SPLITS),
    priority: 50
    conda:
        "../../environment.yml"
    threads: config["training_threads"]
    resources:
        gpu=gpus,
        mem_mb=memory(8000, images=IN_MEMORY),
        runtime=720,
    params:
        transform=setting("transform"),
        masks=lambda wildcards: {
            key: value for key, value in SETTINGS["settings"][wildcards.dataset]["masks"].items() if key != "source"
        },
        decode_size=decode_size,
        device=config["device"],
        compute=COMPUTE,
    message:
        "Masking the {wildcards.split} images of {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/make_masks.py"


if SHARDS["masks"] > 1:

    rule gather_masks:
        input:
            shards=of_shards("masks", HEAT_MAP_MASKS),
            code=uses("workflow/scripts/gather_shards.py"),
        output:
            masks=HEAT_MAP_MASKS,
        log:
            "logs/{dataset}/run{run}/gather_masks_{split}.log",
        benchmark:
            "logs/{dataset}/run{run}/gather_masks_{split}.tsv"
        wildcard_constraints:
            split=one_of(SPLITS),
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=memory(2000),
            runtime=240,
        message:
            "Gathering the masks of the {wildcards.split} images of {wildcards.dataset}, run {wildcards.run}"
        script:
            "../scripts/gather_shards.py"


rule take_masks:
    input:
        images="results/{dataset}/images.parquet",
        checkpoint=ERM_NETWORK["checkpoint"],
        code=uses("workflow/scripts/take_masks.py"),
    output:
        masks=MASKS.replace("{source}", "dataset"),
    log:
        "logs/{dataset}/run{run}/take_masks_{split}.log",
    benchmark:
        "logs/{dataset}/run{run}/take_masks_{split}.tsv"
    wildcard_constraints:
        dataset=one_of(kind(lambda s: source(s) == "minibirds")),
        split=one_of(SPLITS),
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        images=setting("images"),
        transform=setting("transform"),
    message:
        "Taking the masks of {wildcards.dataset} that it knows, {wildcards.split}"
    script:
        "../scripts/take_masks.py"


rule fit_dac:
    input:
        **ERM_NETWORK,
        images="results/{dataset}/images.parquet",
        pixels=packed,
        cache=decoded,
        train=f"{EMBEDDINGS}/train.parquet",
        val=f"{EMBEDDINGS}/val.parquet",
        masks=masks_for(masks_of_dac),
        code=uses("workflow/scripts/fit_dac.py"),
    output:
        heads=f"{DAC_SEED}/heads.safetensors",
        history=f"{DAC_SEED}/history.parquet",
    log:
        "logs/{dataset}/run{run}/fit_dac_seed{seed}.log",
    benchmark:
        "logs/{dataset}/run{run}/fit_dac_seed{seed}.tsv"
    wildcard_constraints:
        dataset=one_of([name for name in WITH_IMAGES if name not in DRIFTING]),
    priority: 50
    conda:
        "../../environment.yml"
    threads: config["training_threads"]
    resources:
        gpu=gpus,
        mem_mb=memory(8000, images=IN_MEMORY, train=3, val=3, masks=3),
        runtime=720,
    params:
        dac=setting("dac"),
        transform=setting("transform"),
        standardised=standardised,
        decode_size=decode_size,
        device=config["device"],
        compute=COMPUTE,
    message:
        "Fitting DaC on {wildcards.dataset}, run {wildcards.run}, seed {wildcards.seed}"
    script:
        "../scripts/fit_dac.py"


# Where BatchNorm drifts, each seed has a network of its own.
use rule fit_dac as fit_drifting_dac with:
    output:
        heads=f"{DAC_SEED}/heads.safetensors",
        history=f"{DAC_SEED}/history.parquet",
        checkpoint=f"{DAC_SEED}/backbone.safetensors",
    wildcard_constraints:
        dataset=one_of(DRIFTING),


rule gather_heads:
    input:
        heads=expand(
            "results/{dataset}/run{run}/{method}/seed{seed}/heads.safetensors",
            seed=config["seeds"],
            allow_missing=True,
        ),
        code=uses("workflow/scripts/gather_heads.py"),
    output:
        heads="results/{dataset}/run{run}/{method}/heads.safetensors",
    log:
        "logs/{dataset}/run{run}/gather_heads_{method}.log",
    benchmark:
        "logs/{dataset}/run{run}/gather_heads_{method}.tsv"
    wildcard_constraints:
        method="dac|ddb",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=10,
    message:
        "Gathering the {wildcards.method} heads of {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/gather_heads.py"


rule draw_masks:
    input:
        **{name: path.replace("{run}", str(RUNS[0])) for name, path in ERM_NETWORK.items()},
        images="results/{dataset}/images.parquet",
        pixels=packed,
        cache=decoded,
        train=f"{EMBEDDINGS}/train.parquet".replace("{run}", str(RUNS[0])),
        masks=masks_for(masks_of_dac, run=RUNS[0]),
        code=uses("workflow/scripts/draw_masks.py"),
        style=STYLE,
    output:
        reported(figure_files("masks")),
    log:
        "logs/{dataset}/draw_masks.log",
    benchmark:
        "logs/{dataset}/draw_masks.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(4000, train=2, masks=2),
        runtime=30,
    params:
        transform=setting("transform"),
        shown=lambda wildcards: {
            key: SETTINGS["settings"][wildcards.dataset]["dac"][key] for key in ("invert", "quantile")
        },
        decode_size=decode_size,
    message:
        "Drawing masks of {wildcards.dataset}"
    script:
        "../scripts/draw_masks.py"
