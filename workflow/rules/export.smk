# Nothing asks for these files but the user: snakemake results/minibirds/run0/hsfm/model_seed0.safetensors --cores 2
rule export_model:
    input:
        checkpoint=network_of("backbone.safetensors"),
        heads=heads_to_score,
        standardisation=network_of("standardisation.safetensors"),
        code=uses("workflow/scripts/export_model.py"),
    output:
        model="results/{dataset}/run{run}/{method}/model_seed{seed}.safetensors",
    log:
        "logs/{dataset}/run{run}/export_{method}_seed{seed}.log",
    benchmark:
        "logs/{dataset}/run{run}/export_{method}_seed{seed}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(4000),
        runtime=10,
    message:
        "Exporting the network with the {wildcards.method} head of seed {wildcards.seed}: {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/export_model.py"
