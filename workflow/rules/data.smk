use rule stage as pack_images with:
    input:
        raw=plan.raw_data,
    output:
        images="results/{dataset}/images.parquet",
        pixels="results/{dataset}/pixels.npy",
    log:
        "logs/{dataset}/pack_images.log",
    wildcard_constraints:
        dataset=one_of(plan.packed),
    threads: 2
    params:
        **plan.code_of_source("pack_images"),
        settings=plan.section("images"),
        files=plan.stamps_of_images,
    message:
        "Packing the images of {wildcards.dataset}"


use rule stage as list_images with:
    input:
        raw=plan.raw_data,
    output:
        "results/{dataset}/listed.parquet",
    log:
        "logs/{dataset}/list_images.log",
    params:
        **plan.code_of_source("list_images"),
        settings=plan.section("images", without=("on_bad_image",)),
        files=plan.stamps_of_images,
    message:
        "Listing the images of {wildcards.dataset}"


use rule long_stage as decode_images with:
    input:
        listed="results/{dataset}/listed.parquet",
    output:
        images="results/{dataset}/images.parquet",
        unreadable="results/{dataset}/unreadable_images.csv",
        pixels="results/{dataset}/decoded.npy",
        index="results/{dataset}/decoded.parquet",
    log:
        "logs/{dataset}/decode_images.log",
    wildcard_constraints:
        dataset=one_of(plan.cached),
    threads: 8
    params:
        **code_of("decode_images"),
        on_bad_image=plan.section("images/on_bad_image"),
        decode_size=plan.decode_size,
    message:
        "Decoding every image of {wildcards.dataset} once"


use rule decode_images as check_images with:
    output:
        images="results/{dataset}/images.parquet",
        unreadable="results/{dataset}/unreadable_images.csv",
    log:
        "logs/{dataset}/check_images.log",
    wildcard_constraints:
        dataset=one_of([name for name in plan.in_files if name not in plan.cached]),
    message:
        "Opening every image of {wildcards.dataset} once"


# Only what is missing is declared, and while it is missing: Snakemake deletes the outputs of a job that fails, and must
# never delete what lies in a user's folder.
for NAME, SOURCE, FOLDER, FILES in downloads(plan.settings):

    rule:
        name:
            f"download_{NAME}"
        output:
            FILES,
        log:
            f"logs/download_{NAME}.log",
        localrule: True
        conda:
            "../../environment.yml"
        params:
            **code_of("download_data"),
            source=SOURCE,
            folder=FOLDER,
        message:
            f"Downloading {SOURCE} into {FOLDER}"
        script:
            "../scripts/download_data.py"
