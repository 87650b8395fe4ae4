use rule stage as sweep_hsfm with:
    input:
        **ERM_FEATURES,
    output:
        "results/{dataset}/run{run}/studies/sweep_part{part}.parquet",
    log:
        "logs/{dataset}/run{run}/sweep_hsfm_{part}.log",
    priority: 50
    resources:
        gpu=gpu,
        mem_mb=memory(4000),
        runtime=720,
    params:
        **code_of("sweep_hsfm"),
        settings=plan.sections("sweep", "hsfm", "hard_set"),
        device=plan.config["device"],
    message:
        "Sweeping HSFM's settings on {wildcards.dataset}, run {wildcards.run}, part {wildcards.part}"


use rule sweep_hsfm as ablate_hsfm with:
    output:
        "results/{dataset}/run{run}/studies/ablations.parquet",
    log:
        "logs/{dataset}/run{run}/ablate_hsfm.log",
    params:
        **code_of("ablate_hsfm"),
        settings=plan.section("hsfm"),
        hard_set=plan.section("hard_set"),
        seeds=plan.seeds,
    message:
        "Taking parts of HSFM away on {wildcards.dataset}, run {wildcards.run}"


use rule long_stage as bias_validation with:
    input:
        **ERM_FEATURES,
    output:
        "results/{dataset}/run{run}/studies/validation_bias.parquet",
    log:
        "logs/{dataset}/run{run}/bias_validation.log",
    params:
        **code_of("bias_validation"),
        settings=plan.sections("validation_bias", "hsfm", "hard_set", "dfr", "llr"),
    message:
        "Fitting on biased validation splits of {wildcards.dataset}, run {wildcards.run}"
