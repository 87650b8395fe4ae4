ERM_FEATURES = {**EMBEDDINGS_OF_SPLITS, "heads": "results/{dataset}/run{run}/erm/heads.safetensors"}


use rule stage as read_erm_head with:
    input:
        checkpoint="results/{dataset}/run{run}/erm/backbone.safetensors",
    output:
        heads="results/{dataset}/run{run}/erm/heads.safetensors",
    log:
        "logs/{dataset}/run{run}/read_erm_head.log",
    wildcard_constraints:
        dataset=one_of(plan.with_head),
    localrule: True
    params:
        **code_of("read_erm_head"),
    message:
        "Reading ERM's own head of {wildcards.dataset}, run {wildcards.run}"


use rule stage as fit_erm_head with:
    input:
        train=ERM_FEATURES["train"],
    output:
        heads="results/{dataset}/run{run}/erm/heads.safetensors",
    log:
        "logs/{dataset}/run{run}/fit_erm_head.log",
    wildcard_constraints:
        dataset=one_of(plan.without_head),
    params:
        **code_of("fit_erm_head"),
        settings=plan.section("erm_head"),
    message:
        "Fitting ERM's head on the frozen features of {wildcards.dataset}"


use rule stage as build_hard_set with:
    input:
        heads="results/{dataset}/run{run}/erm/heads.safetensors",
        pool=f"{EMBEDDINGS}/val.parquet",
    output:
        hard_set="results/{dataset}/run{run}/erm/hard_set.parquet",
    log:
        "logs/{dataset}/run{run}/build_hard_set.log",
    params:
        **code_of("build_hard_set"),
        settings=plan.section("hard_set"),
    message:
        "Choosing the hard validation images of {wildcards.dataset}, run {wildcards.run}"


# One rule for every row of the tables whose heads are fitted on embeddings, and for every such method.
for ROW in plan.fitted:
    METHOD = plan.method(ROW)

    rule:
        name:
            f"fit_{ROW}"
        input:
            unpack(plan.inputs_of_fit(ROW)),
        output:
            **{name: f"results/{{dataset}}/run{{run}}/{ROW}/{name}.parquet" for name in METHOD.tables},
            heads=f"results/{{dataset}}/run{{run}}/{ROW}/heads.safetensors",
        log:
            f"logs/{{dataset}}/run{{run}}/fit_{ROW}.log",
        wildcard_constraints:
            dataset=one_of(plan.where(lambda settings: settings.get(ROW))),
        priority: 50 if METHOD.device else 10  # before figures
        conda:
            "../../environment.yml"
        threads: plan.config["training_threads"] if METHOD.device else 1
        resources:
            gpu=gpu if METHOD.device else 0,
            mem_mb=memory(4000),
            runtime=240,
        params:
            **code_of("fit_method", METHOD.path, *(f"hsfm/heads/{need}.py" for need in METHOD.needs)),
            **{need: plan.section(need) for need in METHOD.needs},
            module=METHOD.name,
            settings=plan.section(ROW),
            row=ROW,
            seeds=plan.seeds,
            device=plan.config["device"] if METHOD.device else "cpu",
        message:
            f"Fitting {method_label(ROW)} on {{wildcards.dataset}}, run {{wildcards.run}}"
        script:
            "../scripts/fit_method.py"


# All rows of a run in one job, which reads its features once.
for DATASET in plan.datasets:

    rule:
        name:
            f"score_heads_{DATASET}"
        input:
            unpack(plan.to_score),
        output:
            scores=[f"{OF_RUN}/{row}/scores.parquet" for row in plan.scored(DATASET)],
            predictions=[f"{OF_RUN}/{row}/predictions.parquet" for row in plan.scored(DATASET)],
        log:
            "logs/{dataset}/run{run}/score_heads.log",
        wildcard_constraints:
            dataset=DATASET,
        conda:
            "../../environment.yml"
        resources:
            mem_mb=memory(4000),
            runtime=240,
        params:
            **code_of("score_heads"),
            networks=plan.networks_to_score,
        message:
            "Scoring the heads of {wildcards.dataset}, run {wildcards.run}"
        script:
            "../scripts/{params.script}.py"
