rule pack_images:
    input:
        raw=raw_data,
        code=uses_of_source("workflow/scripts/pack_images.py"),
    output:
        images="results/{dataset}/images.parquet",
        pixels="results/{dataset}/pixels.npy",
    log:
        "logs/{dataset}/pack_images.log",
    benchmark:
        "logs/{dataset}/pack_images.tsv"
    wildcard_constraints:
        dataset=one_of(PACKED),
    conda:
        "../../environment.yml"
    threads: 2
    resources:
        mem_mb=memory(4000),
        runtime=60,
    params:
        settings=setting("images"),
    message:
        "Packing the images of {wildcards.dataset}"
    script:
        "../scripts/pack_images.py"


rule list_images:
    input:
        raw=raw_data,
        code=uses_of_source("workflow/scripts/list_images.py"),
    output:
        "results/{dataset}/listed.parquet",
    log:
        "logs/{dataset}/list_images.log",
    benchmark:
        "logs/{dataset}/list_images.tsv"
    wildcard_constraints:
        dataset=one_of(IN_FILES),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=120,
    params:
        settings=images_without("on_bad_image"),
        files=stamps_of("images", "metadata"),
    message:
        "Listing the images of {wildcards.dataset}"
    script:
        "../scripts/list_images.py"


rule decode_images:
    input:
        listed="results/{dataset}/listed.parquet",
        code=uses("workflow/scripts/decode_images.py"),
    output:
        images="results/{dataset}/images.parquet",
        unreadable="results/{dataset}/unreadable_images.csv",
        pixels="results/{dataset}/decoded.npy",
        index="results/{dataset}/decoded.parquet",
    log:
        "logs/{dataset}/decode_images.log",
    benchmark:
        "logs/{dataset}/decode_images.tsv"
    wildcard_constraints:
        dataset=one_of(CACHED),
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=memory(4000),
        runtime=720,
    params:
        on_bad_image=setting("images/on_bad_image"),
        decode_size=decode_size,
    message:
        "Decoding every image of {wildcards.dataset} once"
    script:
        "../scripts/decode_images.py"


rule check_images:
    input:
        listed="results/{dataset}/listed.parquet",
        code=uses("workflow/scripts/check_images.py"),
    output:
        images="results/{dataset}/images.parquet",
        unreadable="results/{dataset}/unreadable_images.csv",
    log:
        "logs/{dataset}/check_images.log",
    benchmark:
        "logs/{dataset}/check_images.tsv"
    wildcard_constraints:
        dataset=one_of([name for name in IN_FILES if name not in CACHED]),
    conda:
        "../../environment.yml"
    threads: 8
    resources:
        mem_mb=memory(4000),
        runtime=720,
    params:
        on_bad_image=setting("images/on_bad_image"),
    message:
        "Opening every image of {wildcards.dataset} once"
    script:
        "../scripts/check_images.py"


# Only what is missing is declared, and while it is missing: Snakemake deletes the outputs of a job that fails, and must
# never delete what lies in a user's folder.
for NUMBER, (FOLDER, (SOURCE, FILES)) in enumerate(MISSING_DATA.items()):
    if not FILES:
        continue
    # a second folder of one source gets a number
    NAME = SOURCE if f"download_{SOURCE}" not in [other.name for other in workflow.rules] else f"{SOURCE}_{NUMBER}"

    rule:
        name:
            f"download_{NAME}"
        input:
            code=uses("workflow/scripts/download_data.py"),
        output:
            FILES,
        log:
            f"logs/download_{NAME}.log",
        localrule: True
        conda:
            "../../environment.yml"
        threads: 1
        resources:
            mem_mb=memory(1000),
            runtime=720,
        params:
            source=SOURCE,
            folder=FOLDER,
        message:
            f"Downloading {SOURCE} into {FOLDER}"
        script:
            "../scripts/download_data.py"
