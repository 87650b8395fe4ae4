rule pack_images:
    input:
        raw=raw_data,
        code=uses("workflow/scripts/pack_images.py"),
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
    params:
        settings=setting("images"),
    message:
        "Packing the images of {wildcards.dataset}"
    script:
        "../scripts/pack_images.py"


rule list_images:
    input:
        raw=raw_data,
        code=uses("workflow/scripts/list_images.py"),
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
    params:
        settings=setting("images"),
    message:
        "Listing the images of {wildcards.dataset}"
    script:
        "../scripts/list_images.py"


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
        dataset=one_of(IN_FILES),
    conda:
        "../../environment.yml"
    threads: 8
    params:
        settings=setting("images"),
    message:
        "Opening every image of {wildcards.dataset} once"
    script:
        "../scripts/check_images.py"


# Only what is absent can be downloaded: a rule whose output lies in a user's folder must not exist where it could
# overwrite something.
for NAME in absent_data():

    rule:
        name:
            f"download_{NAME}"
        input:
            code=uses("workflow/scripts/download_data.py"),
        output:
            DATA_FILES[NAME],
        log:
            f"logs/{NAME}/download_data.log",
        conda:
            "../../environment.yml"
        params:
            source=SETTINGS["settings"][NAME]["images"]["source"],
            folder=SETTINGS["settings"][NAME]["images"]["folder"],
        message:
            f"Downloading {NAME}"
        script:
            "../scripts/download_data.py"
