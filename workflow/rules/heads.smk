ERM_FEATURES = {**EMBEDDINGS_OF_SPLITS, "heads": "results/{dataset}/run{run}/erm/heads.safetensors"}


use rule stage as read_erm_head with:
    input:
        checkpoint="results/{dataset}/run{run}/erm/backbone.safetensors",
    output:
        heads="results/{dataset}/run{run}/erm/heads.safetensors",
    log:
        "logs/{dataset}/run{run}/read_erm_head.log",
    benchmark:
        "logs/{dataset}/run{run}/read_erm_head.tsv"
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
    benchmark:
        "logs/{dataset}/run{run}/fit_erm_head.tsv"
    wildcard_constraints:
        dataset=one_of(plan.without_head),
    resources:
        mem_mb=memory(2000, train=4),
        runtime=240,
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
    benchmark:
        "logs/{dataset}/run{run}/build_hard_set.tsv"
    resources:
        mem_mb=memory(2000, pool=3),
        runtime=30,
    params:
        **code_of("build_hard_set"),
        settings=plan.section("hard_set"),
    message:
        "Choosing the hard validation images of {wildcards.dataset}, run {wildcards.run}"


use rule stage as fit_hsfm with:
    input:
        train=f"{EMBEDDINGS}/train.parquet",
        val=f"{EMBEDDINGS}/val.parquet",
        heads="results/{dataset}/run{run}/erm/heads.safetensors",
        hard_set="results/{dataset}/run{run}/erm/hard_set.parquet",
    output:
        heads="results/{dataset}/run{run}/hsfm/heads.safetensors",
        history="results/{dataset}/run{run}/hsfm/history.parquet",
        hard_groups="results/{dataset}/run{run}/hsfm/hard_groups.parquet",
        support="results/{dataset}/run{run}/hsfm/support.parquet",
    log:
        "logs/{dataset}/run{run}/fit_hsfm.log",
    benchmark:
        "logs/{dataset}/run{run}/fit_hsfm.tsv"
    priority: 50
    resources:
        gpu=gpu,
        mem_mb=memory(4000, train=3, val=3),
        runtime=120,
    params:
        **code_of("fit_hsfm"),
        settings=plan.section("hsfm"),
        hard_set=plan.section("hard_set"),
        seeds=plan.seeds,
        device=plan.config["device"],
    message:
        "Fitting HSFM on {wildcards.dataset}, run {wildcards.run}"


use rule stage as fit_dfr with:
    input:
        val=f"{EMBEDDINGS}/val.parquet",
    output:
        heads="results/{dataset}/run{run}/dfr/heads.safetensors",
    log:
        "logs/{dataset}/run{run}/fit_dfr.log",
    benchmark:
        "logs/{dataset}/run{run}/fit_dfr.tsv"
    resources:
        mem_mb=memory(2000, val=4),
        runtime=240,
    params:
        **code_of("fit_dfr"),
        settings=plan.section("dfr"),
        seeds=plan.seeds,
    message:
        "Fitting DFR on {wildcards.dataset}, run {wildcards.run}"


use rule stage as fit_llr with:
    input:
        val=f"{EMBEDDINGS}/val.parquet",
    output:
        heads="results/{dataset}/run{run}/llr/heads.safetensors",
    log:
        "logs/{dataset}/run{run}/fit_llr.log",
    benchmark:
        "logs/{dataset}/run{run}/fit_llr.tsv"
    resources:
        mem_mb=memory(2000, val=4),
        runtime=240,
    params:
        **code_of("fit_llr"),
        settings=plan.section("llr"),
        seeds=plan.seeds,
    message:
        "Fitting LLR on {wildcards.dataset}, run {wildcards.run}"


use rule stage as score_heads with:
    input:
        heads=plan.heads_to_score,
        embeddings=plan.features_to_score,
    output:
        scores="results/{dataset}/run{run}/{method}/scores.parquet",
        predictions="results/{dataset}/run{run}/{method}/predictions.parquet",
    log:
        "logs/{dataset}/run{run}/score_{method}.log",
    benchmark:
        "logs/{dataset}/run{run}/score_{method}.tsv"
    resources:
        mem_mb=memory(2000, embeddings=2),
        runtime=60,
    params:
        **code_of("score_heads"),
    message:
        "Scoring {wildcards.method} on {wildcards.dataset}, run {wildcards.run}"
