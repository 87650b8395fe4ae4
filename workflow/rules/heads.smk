ERM_FEATURES = {**EMBEDDINGS_OF_SPLITS, "heads": "results/{dataset}/run{run}/erm/heads.safetensors"}


rule read_erm_head:
    input:
        checkpoint="results/{dataset}/run{run}/erm/backbone.safetensors",
        code=uses("workflow/scripts/read_erm_head.py"),
    output:
        heads="results/{dataset}/run{run}/erm/heads.safetensors",
    log:
        "logs/{dataset}/run{run}/read_erm_head.log",
    benchmark:
        "logs/{dataset}/run{run}/read_erm_head.tsv"
    wildcard_constraints:
        dataset=one_of(WITH_HEAD),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=10,
    message:
        "Reading ERM's own head of {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/read_erm_head.py"


rule fit_erm_head:
    input:
        train=ERM_FEATURES["train"],
        code=uses("workflow/scripts/fit_erm_head.py"),
    output:
        heads="results/{dataset}/run{run}/erm/heads.safetensors",
    log:
        "logs/{dataset}/run{run}/fit_erm_head.log",
    benchmark:
        "logs/{dataset}/run{run}/fit_erm_head.tsv"
    wildcard_constraints:
        dataset=one_of(WITHOUT_HEAD),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000, train=4),
        runtime=240,
    params:
        settings=setting("erm_head"),
    message:
        "Fitting ERM's head on the frozen features of {wildcards.dataset}"
    script:
        "../scripts/fit_erm_head.py"


rule build_hard_set:
    input:
        heads="results/{dataset}/run{run}/erm/heads.safetensors",
        pool=f"{EMBEDDINGS}/val.parquet",
        code=uses("workflow/scripts/build_hard_set.py"),
    output:
        hard_set="results/{dataset}/run{run}/erm/hard_set.parquet",
    log:
        "logs/{dataset}/run{run}/build_hard_set.log",
    benchmark:
        "logs/{dataset}/run{run}/build_hard_set.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000, pool=3),
        runtime=30,
    params:
        settings=setting("hard_set"),
    message:
        "Choosing the hard validation images of {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/build_hard_set.py"


rule fit_hsfm:
    input:
        train=f"{EMBEDDINGS}/train.parquet",
        val=f"{EMBEDDINGS}/val.parquet",
        heads="results/{dataset}/run{run}/erm/heads.safetensors",
        hard_set="results/{dataset}/run{run}/erm/hard_set.parquet",
        code=uses("workflow/scripts/fit_hsfm.py"),
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
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=gpus,
        mem_mb=memory(4000, train=3, val=3),
        runtime=120,
    params:
        settings=setting("hsfm"),
        hard_set=setting("hard_set"),
        seeds=config["seeds"],
        device=config["device"],
    message:
        "Fitting HSFM on {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/fit_hsfm.py"


rule fit_dfr:
    input:
        val=f"{EMBEDDINGS}/val.parquet",
        code=uses("workflow/scripts/fit_dfr.py"),
    output:
        heads="results/{dataset}/run{run}/dfr/heads.safetensors",
    log:
        "logs/{dataset}/run{run}/fit_dfr.log",
    benchmark:
        "logs/{dataset}/run{run}/fit_dfr.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000, val=4),
        runtime=240,
    params:
        settings=setting("dfr"),
        seeds=config["seeds"],
    message:
        "Fitting DFR on {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/fit_dfr.py"


rule fit_llr:
    input:
        val=f"{EMBEDDINGS}/val.parquet",
        code=uses("workflow/scripts/fit_llr.py"),
    output:
        heads="results/{dataset}/run{run}/llr/heads.safetensors",
    log:
        "logs/{dataset}/run{run}/fit_llr.log",
    benchmark:
        "logs/{dataset}/run{run}/fit_llr.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000, val=4),
        runtime=240,
    params:
        settings=setting("llr"),
        seeds=config["seeds"],
    message:
        "Fitting LLR on {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/fit_llr.py"


rule score_heads:
    input:
        heads=heads_to_score,
        embeddings=features_to_score,
        code=uses("workflow/scripts/score_heads.py"),
    output:
        scores="results/{dataset}/run{run}/{method}/scores.parquet",
        predictions="results/{dataset}/run{run}/{method}/predictions.parquet",
    log:
        "logs/{dataset}/run{run}/score_{method}.log",
    benchmark:
        "logs/{dataset}/run{run}/score_{method}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000, embeddings=2),
        runtime=60,
    message:
        "Scoring {wildcards.method} on {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/score_heads.py"
