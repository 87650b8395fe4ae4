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


# One job per row of the tables, of which a changed method reruns its own alone.
use rule stage as select_heads with:
    input:
        unpack(plan.inputs_of_selection),
    output:
        "results/{dataset}/run{run}/studies/selection_{method}.parquet",
    log:
        "logs/{dataset}/run{run}/select_{method}.log",
    wildcard_constraints:
        method=one_of(plan.selected),
    threads: plan.of_method(lambda method: plan.config["training_threads"] if method.device else 1)
    resources:
        gpu=lambda wildcards: gpu(wildcards) if plan.method(wildcards.method).device else 0,
        mem_mb=memory(4000),
        runtime=720,
    params:
        **plan.code_of_row("select_heads"),
        module=plan.of_method(lambda method: method.name),
        settings=lambda wildcards: plan.settings[wildcards.dataset][wildcards.method],
        needs=plan.needs,
        seeds=plan.seeds,
        device=plan.of_method(lambda method: plan.config["device"] if method.device else "cpu"),
    message:
        "Fitting {wildcards.method} under every rule on {wildcards.dataset}, run {wildcards.run}"


use rule long_stage as bias_validation with:
    input:
        unpack(plan.inputs_of_selection),
    output:
        "results/{dataset}/run{run}/studies/validation_bias_{method}.parquet",
    log:
        "logs/{dataset}/run{run}/bias_{method}.log",
    wildcard_constraints:
        method=one_of(dict.fromkeys([*plan.selected, "dfr"])),
    params:
        **plan.code_of_row("bias_validation"),
        module=plan.of_method(lambda method: method.name),
        settings=lambda wildcards: plan.settings[wildcards.dataset][wildcards.method],
        bias=plan.section("validation_bias"),
        hard_set=plan.section("hard_set"),
    message:
        "Fitting {wildcards.method} on biased validation splits of {wildcards.dataset}, run {wildcards.run}"
