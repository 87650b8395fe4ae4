EDITS = "results/{dataset}/run{run}/hsfm/edits.parquet"
SUPPORT = "results/{dataset}/run{run}/hsfm/support.parquet"
OF_FIRST_RUN = {
    name: path.replace("{run}", str(RUNS[0]))
    for name, path in {
        "edits": EDITS,
        "support": SUPPORT,
        "train": f"{EMBEDDINGS}/train.parquet",
        "val": f"{EMBEDDINGS}/val.parquet",
    }.items()
}
EDIT_FIGURES = {
    f"{name}_{suffix}": f"results/figures/{{dataset}}/{figure}.{suffix}"
    for name, figure in {"edits": "edits", "cosines": "edit_cosines", "neighbours": "edit_neighbours"}.items()
    for suffix in ("png", "pdf")
}


rule measure_edits:
    input:
        support=SUPPORT,
        train=f"{EMBEDDINGS}/train.parquet",
        val=f"{EMBEDDINGS}/val.parquet",
        code=uses("workflow/scripts/measure_edits.py"),
    output:
        edits=EDITS,
    log:
        "logs/{dataset}/run{run}/measure_edits.log",
    benchmark:
        "logs/{dataset}/run{run}/measure_edits.tsv"
    wildcard_constraints:
        dataset=one_of(WITH_EDITS),
    conda:
        "../../environment.yml"
    threads: config["training_threads"]
    resources:
        mem_mb=memory(2000, train=3, val=3),
        runtime=120,
    params:
        edits=setting("edits"),
    message:
        "Measuring what HSFM's edits mean on {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/measure_edits.py"


rule tabulate_edits:
    input:
        edits=expand(EDITS, dataset=WITH_EDITS, run=RUNS),
        code=uses("workflow/scripts/tabulate_edits.py"),
    output:
        reported(table_files("edits")),
    log:
        "logs/tabulate_edits.log",
    benchmark:
        "logs/tabulate_edits.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=10,
    message:
        "Making the table of HSFM's edits"
    script:
        "../scripts/tabulate_edits.py"


rule draw_edits:
    input:
        **OF_FIRST_RUN,
        images="results/{dataset}/images.parquet",
        pixels=packed,
        cache=decoded,
        code=uses("workflow/scripts/draw_edits.py"),
        style=STYLE,
    output:
        **reported(EDIT_FIGURES),
    log:
        "logs/{dataset}/draw_edits.log",
    benchmark:
        "logs/{dataset}/draw_edits.tsv"
    wildcard_constraints:
        dataset=one_of([name for name in WITH_EDITS if name in WITH_IMAGES]),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(4000, train=3, val=3),
        runtime=60,
    params:
        decode_size=decode_size,
    message:
        "Drawing what HSFM's edits mean on {wildcards.dataset}"
    script:
        "../scripts/draw_edits.py"


# Where embeddings were given, there are no pictures of neighbours.
use rule draw_edits as draw_edits_without_images with:
    input:
        **OF_FIRST_RUN,
        cache=[],
        code=uses("workflow/scripts/draw_edits.py"),
        style=STYLE,
    output:
        **reported({name: path for name, path in EDIT_FIGURES.items() if not name.startswith("neighbours")}),
    wildcard_constraints:
        dataset=one_of([name for name in WITH_EDITS if name in GIVEN]),


DECODED = f"results/{{dataset}}/run{RUNS[0]}/hsfm/decoded.parquet"


rule decode_edits:
    input:
        images="results/{dataset}/images.parquet",
        edits=OF_FIRST_RUN["edits"],
        support=OF_FIRST_RUN["support"],
        standardisation=ERM_NETWORK["standardisation"].replace("{run}", str(RUNS[0])),
        code=uses("workflow/scripts/decode_edits.py"),
        extra=needs_extra("unCLIP", MISSING_FOR_UNCLIP),
    output:
        DECODED,
    log:
        "logs/{dataset}/decode_edits.log",
    benchmark:
        "logs/{dataset}/decode_edits.tsv"
    wildcard_constraints:
        dataset=one_of(WITH_UNCLIP),
    priority: 50
    conda:
        "../../environment.yml"
    threads: config["training_threads"]
    resources:
        gpu=gpus,
        mem_mb=memory(16000),
        runtime=240,
    params:
        unclip=setting("unclip"),
        stamps=lambda wildcards: folder_stamp(SETTINGS["settings"][wildcards.dataset]["unclip"]["model"]["name"]),
        clip=clip_stamp,
        backbone=setting("backbone"),
        transform=setting("transform"),
        device=config["device"],
        compute=COMPUTE,
    message:
        "Decoding HSFM's edits of {wildcards.dataset} into pictures"
    script:
        "../scripts/decode_edits.py"


rule draw_unclip:
    input:
        **IMAGES,
        decoded=DECODED,
        code=uses("workflow/scripts/draw_unclip.py"),
        style=STYLE,
    output:
        reported(figure_files("unclip")),
    log:
        "logs/{dataset}/draw_unclip.log",
    benchmark:
        "logs/{dataset}/draw_unclip.tsv"
    wildcard_constraints:
        dataset=one_of(WITH_UNCLIP),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=60,
    params:
        decode_size=decode_size,
    message:
        "Drawing the pictures of HSFM's edits of {wildcards.dataset}"
    script:
        "../scripts/draw_unclip.py"
