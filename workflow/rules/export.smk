# Nothing asks for these files but the user: snakemake results/minibirds/run0/hsfm/model_seed0.safetensors --cores 2
rule export_model:
    input:
        checkpoint="results/{dataset}/run{run}/erm/backbone.safetensors",
        heads="results/{dataset}/run{run}/{method}/heads.safetensors",
        standardisation="results/{dataset}/run{run}/erm/standardisation.safetensors",
        code=uses("workflow/scripts/export_model.py"),
    output:
        model="results/{dataset}/run{run}/{method}/model_seed{seed}.safetensors",
    log:
        "logs/{dataset}/run{run}/export_{method}_seed{seed}.log",
    benchmark:
        "logs/{dataset}/run{run}/export_{method}_seed{seed}.tsv"
    wildcard_constraints:
        seed="[0-9]+",
    conda:
        "../../environment.yml"
    message:
        "Exporting the network with the {wildcards.method} head of seed {wildcards.seed}: {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/export_model.py"
