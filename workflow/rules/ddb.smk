DDB = "results/{dataset}/run{run}/ddb"
GENERATED = f"{DDB}/generated.parquet"
DDB_SEED = f"{DDB}/seed{{seed}}"
TOKEN = "results/{dataset}/tokens/class{label}"
IMAGES = {"images": "results/{dataset}/images.parquet", "pixels": packed, "cache": decoded}


rule choose_sources:
    input:
        train=f"{EMBEDDINGS}/train.parquet",
        val=f"{EMBEDDINGS}/val.parquet",
        heads=ERM_NETWORK["heads"],
        code=uses("workflow/scripts/choose_sources.py"),
        extra=needs_extra("DDB", MISSING_FOR_DDB),
    output:
        sources=f"{DDB}/sources.parquet",
    log:
        "logs/{dataset}/run{run}/choose_sources.log",
    benchmark:
        "logs/{dataset}/run{run}/choose_sources.tsv"
    wildcard_constraints:
        dataset=one_of(WITH_DDB),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000, train=3, val=3),
        runtime=30,
    params:
        ddb=lambda wildcards: {
            "classes": len(SETTINGS["settings"][wildcards.dataset]["ddb"]["retrain"]["weights"]),
            "select_by": SETTINGS["settings"][wildcards.dataset]["ddb"]["retrain"]["select_by"],
            "sources_per_class": SETTINGS["settings"][wildcards.dataset]["ddb"]["sources_per_class"],
        },
    message:
        "Choosing the images that ERM finds easiest: {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/choose_sources.py"


rule learn_token:
    input:
        images=IMAGES["images"],
        pixels=packed,
        code=uses("workflow/scripts/learn_token.py"),
        extra=needs_extra("DDB", MISSING_FOR_DDB),
    output:
        token=f"{TOKEN}.safetensors",
        history=f"{TOKEN}.parquet",
    log:
        "logs/{dataset}/learn_token_{label}.log",
    benchmark:
        "logs/{dataset}/learn_token_{label}.tsv"
    wildcard_constraints:
        dataset=one_of(BY_DIFFUSION),
        label="[0-9]+",
    priority: 50
    conda:
        "../../environment.yml"
    threads: config["training_threads"]
    resources:
        gpu=gpus,
        mem_mb=memory(16000, images=IN_MEMORY),
        runtime=240,
    params:
        models=models("text_to_image"),
        token=setting("ddb/token"),
        device=config["device"],
        compute=COMPUTE,
    message:
        "Learning a word for class {wildcards.label} of {wildcards.dataset}"
    script:
        "../scripts/learn_token.py"


rule segment_objects:
    input:
        **IMAGES,
        sources=f"{DDB}/sources.parquet",
        code=uses("workflow/scripts/segment_objects.py"),
    output:
        objects=f"{DDB}/objects.parquet",
    log:
        "logs/{dataset}/run{run}/segment_objects.log",
    benchmark:
        "logs/{dataset}/run{run}/segment_objects.tsv"
    wildcard_constraints:
        dataset=one_of(BY_DIFFUSION),
    priority: 50
    conda:
        "../../environment.yml"
    threads: config["training_threads"]
    resources:
        gpu=gpus,
        mem_mb=memory(16000, images=IN_MEMORY),
        runtime=720,
    params:
        models=models("detector", "segmenter"),
        segment=setting("ddb/segment"),
        decode_size=decode_size,
        device=config["device"],
        compute=COMPUTE,
    message:
        "Finding the objects of {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/segment_objects.py"


rule take_objects:
    input:
        **IMAGES,
        sources=f"{DDB}/sources.parquet",
        masks=masks_for(lambda settings: settings["ddb"]["cut_paste"]["masks"]),
        code=uses("workflow/scripts/take_objects.py"),
    output:
        objects=f"{DDB}/objects.parquet",
    log:
        "logs/{dataset}/run{run}/take_objects.log",
    benchmark:
        "logs/{dataset}/run{run}/take_objects.tsv"
    wildcard_constraints:
        dataset=one_of(BY_CUT_PASTE),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(4000, masks=3),
        runtime=60,
    params:
        transform=setting("transform"),
        decode_size=decode_size,
    message:
        "Taking the objects of {wildcards.dataset}, run {wildcards.run}, out of masks"
    script:
        "../scripts/take_objects.py"


rule inpaint_objects:
    input:
        **IMAGES,
        objects=f"{DDB}/objects.parquet",
        tokens=tokens,
        code=uses("workflow/scripts/inpaint_objects.py"),
    output:
        generated=sharded("generation", GENERATED),
    log:
        f"logs/{{dataset}}/run{{run}}/inpaint_objects{suffix('generation')}.log",
    benchmark:
        f"logs/{{dataset}}/run{{run}}/inpaint_objects{suffix('generation')}.tsv"
    wildcard_constraints:
        dataset=one_of(BY_DIFFUSION),
    priority: 50
    conda:
        "../../environment.yml"
    threads: config["training_threads"]
    resources:
        gpu=gpus,
        mem_mb=memory(16000, images=IN_MEMORY, objects=2),
        runtime=1440,
    params:
        models=models("inpainting"),
        ddb=ddb_settings("images_per_source", "inpaint", "seed"),
        decode_size=decode_size,
        device=config["device"],
        compute=COMPUTE,
    message:
        "Inpainting the objects of {wildcards.dataset}, run {wildcards.run}, as other classes"
    script:
        "../scripts/inpaint_objects.py"


rule paste_objects:
    input:
        **IMAGES,
        objects=f"{DDB}/objects.parquet",
        code=uses("workflow/scripts/paste_objects.py"),
    output:
        generated=sharded("generation", GENERATED),
    log:
        f"logs/{{dataset}}/run{{run}}/paste_objects{suffix('generation')}.log",
    benchmark:
        f"logs/{{dataset}}/run{{run}}/paste_objects{suffix('generation')}.tsv"
    wildcard_constraints:
        dataset=one_of(BY_CUT_PASTE),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(4000, images=IN_MEMORY, objects=4),
        runtime=240,
    params:
        ddb=ddb_settings("cut_paste", "images_per_source", "seed"),
        decode_size=decode_size,
    message:
        "Pasting objects of {wildcards.dataset}, run {wildcards.run}, into other scenes"
    script:
        "../scripts/paste_objects.py"


if SHARDS["generation"] > 1:

    rule gather_generated:
        input:
            shards=of_shards("generation", GENERATED),
            code=uses("workflow/scripts/gather_shards.py"),
        output:
            generated=GENERATED,
        log:
            "logs/{dataset}/run{run}/gather_generated.log",
        benchmark:
            "logs/{dataset}/run{run}/gather_generated.tsv"
        wildcard_constraints:
            dataset=one_of(WITH_DDB),
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=memory(2000),
            runtime=720,
        message:
            "Gathering the generated images of {wildcards.dataset}, run {wildcards.run}"
        script:
            "../scripts/gather_shards.py"


rule prune_generated:
    input:
        **ERM_NETWORK,
        **IMAGES,
        train=f"{EMBEDDINGS}/train.parquet",
        generated=GENERATED,
        code=uses("workflow/scripts/prune_generated.py"),
    output:
        pruned=f"{DDB}/pruned.parquet",
    log:
        "logs/{dataset}/run{run}/prune_generated.log",
    benchmark:
        "logs/{dataset}/run{run}/prune_generated.tsv"
    wildcard_constraints:
        dataset=one_of(WITH_DDB),
    priority: 50
    conda:
        "../../environment.yml"
    threads: config["training_threads"]
    resources:
        gpu=gpus,
        mem_mb=memory(8000, images=IN_MEMORY, train=3),
        runtime=720,
    params:
        prune=setting("ddb/prune"),
        transform=setting("transform"),
        decode_size=decode_size,
        device=config["device"],
        compute=COMPUTE,
    message:
        "Pruning the generated images of {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/prune_generated.py"


rule draw_generated:
    input:
        **IMAGES,
        generated=GENERATED.replace("{run}", str(RUNS[0])),
        pruned=f"{DDB}/pruned.parquet".replace("{run}", str(RUNS[0])),
        code=uses("workflow/scripts/draw_generated.py"),
        style=STYLE,
    output:
        reported(figure_files("generated")),
    log:
        "logs/{dataset}/draw_generated.log",
    benchmark:
        "logs/{dataset}/draw_generated.tsv"
    wildcard_constraints:
        dataset=one_of(WITH_DDB),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(4000, generated=2),
        runtime=30,
    params:
        decode_size=decode_size,
    message:
        "Drawing generated images of {wildcards.dataset}"
    script:
        "../scripts/draw_generated.py"


rule fit_ddb:
    input:
        **ERM_NETWORK,
        **IMAGES,
        generated=GENERATED,
        pruned=f"{DDB}/pruned.parquet",
        code=uses("workflow/scripts/fit_ddb.py"),
    output:
        checkpoint=f"{DDB_SEED}/backbone.safetensors",
        heads=f"{DDB_SEED}/heads.safetensors",
        history=f"{DDB_SEED}/history.parquet",
    log:
        "logs/{dataset}/run{run}/fit_ddb_seed{seed}.log",
    benchmark:
        "logs/{dataset}/run{run}/fit_ddb_seed{seed}.tsv"
    wildcard_constraints:
        dataset=one_of(WITH_DDB),
    priority: 50
    conda:
        "../../environment.yml"
    threads: config["training_threads"]
    resources:
        gpu=gpus,
        mem_mb=memory(8000, images=IN_MEMORY, generated=3),
        runtime=1440,
    params:
        retrain=setting("ddb/retrain"),
        transform=setting("transform"),
        augmentation=setting("augmentation"),
        decode_size=decode_size,
        device=config["device"],
        compute=COMPUTE,
    message:
        "Retraining the network of {wildcards.dataset}, run {wildcards.run}, beside generated images, seed {wildcards.seed}"
    script:
        "../scripts/fit_ddb.py"
