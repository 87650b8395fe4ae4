use rule stage as sweep_hsfm with:
    input:
        **ERM_FEATURES,
    output:
        temp("results/{dataset}/run{run}/studies/sweep_part{part}.parquet"),
    log:
        "logs/{dataset}/run{run}/sweep_hsfm_{part}.log",
    benchmark:
        "logs/{dataset}/run{run}/sweep_hsfm_{part}.tsv"
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


use rule stage as gather_sweep with:
    input:
        parts=plan.sweep_parts,
    output:
        "results/{dataset}/run{run}/studies/sweep.parquet",
    log:
        "logs/{dataset}/run{run}/gather_sweep.log",
    benchmark:
        "logs/{dataset}/run{run}/gather_sweep.tsv"
    localrule: True
    params:
        **code_of("gather_sweep"),
    message:
        "Gathering the sweep of {wildcards.dataset}, run {wildcards.run}"


use rule stage as ablate_hsfm with:
    input:
        **ERM_FEATURES,
    output:
        "results/{dataset}/run{run}/studies/ablations.parquet",
    log:
        "logs/{dataset}/run{run}/ablate_hsfm.log",
    benchmark:
        "logs/{dataset}/run{run}/ablate_hsfm.tsv"
    priority: 50
    resources:
        gpu=gpu,
        mem_mb=memory(4000),
        runtime=720,
    params:
        **code_of("ablate_hsfm"),
        settings=plan.section("hsfm"),
        hard_set=plan.section("hard_set"),
        seeds=plan.seeds,
        device=plan.config["device"],
    message:
        "Taking parts of HSFM away on {wildcards.dataset}, run {wildcards.run}"


use rule stage as bias_validation with:
    input:
        **ERM_FEATURES,
    output:
        "results/{dataset}/run{run}/studies/validation_bias.parquet",
    log:
        "logs/{dataset}/run{run}/bias_validation.log",
    benchmark:
        "logs/{dataset}/run{run}/bias_validation.tsv"
    params:
        **code_of("bias_validation"),
        settings=plan.sections("validation_bias", "hsfm", "hard_set", "dfr", "llr"),
    message:
        "Fitting on biased validation splits of {wildcards.dataset}, run {wildcards.run}"


for STUDY in STUDIES:

    rule:
        name:
            f"tabulate_{STUDY}"
        input:
            results=plan.of_study(STUDY),
        output:
            reported(table_files(STUDY)),
        log:
            f"logs/tabulate_{STUDY}.log",
        benchmark:
            f"logs/tabulate_{STUDY}.tsv"
        localrule: True
        conda:
            "../../environment.yml"
        params:
            **code_of("tabulate_study"),
        message:
            f"Making the table of {STUDY}"
        script:
            "../scripts/tabulate_study.py"
