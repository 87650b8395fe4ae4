# Nothing asks for these files but the user: snakemake results/minibirds/run0/hsfm/model_seed0.safetensors --cores 2
use rule stage as export_model with:
    input:
        unpack(plan.to_export),
    output:
        model="results/{dataset}/run{run}/{method}/model_seed{seed}.safetensors",
    log:
        "logs/{dataset}/run{run}/export_{method}_seed{seed}.log",
    params:
        **code_of("export_model"),
    message:
        "Exporting the network with the {wildcards.method} head of seed {wildcards.seed}: {wildcards.dataset}, run {wildcards.run}"
