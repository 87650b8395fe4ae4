rule sweep_hsfm:
    input:
        **ERM_FEATURES,
        code=uses("workflow/scripts/sweep_hsfm.py"),
    output:
        temp("results/{dataset}/run{run}/studies/sweep_part{part}.parquet"),
    log:
        "logs/{dataset}/run{run}/sweep_hsfm_{part}.log",
    benchmark:
        "logs/{dataset}/run{run}/sweep_hsfm_{part}.tsv"
    wildcard_constraints:
        part="[0-9]+",
    priority: 50
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=gpus,
        mem_mb=memory(4000, train=3, val=3, test=3),
        runtime=720,
    params:
        settings=settings_of("sweep", "hsfm", "hard_set"),
        device=config["device"],
    message:
        "Sweeping HSFM's settings on {wildcards.dataset}, run {wildcards.run}, part {wildcards.part}"
    script:
        "../scripts/sweep_hsfm.py"


rule gather_sweep:
    input:
        parts=sweep_parts,
        code=uses("workflow/scripts/gather_sweep.py"),
    output:
        "results/{dataset}/run{run}/studies/sweep.parquet",
    log:
        "logs/{dataset}/run{run}/gather_sweep.log",
    benchmark:
        "logs/{dataset}/run{run}/gather_sweep.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=10,
    message:
        "Gathering the sweep of {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/gather_sweep.py"


rule ablate_hsfm:
    input:
        **ERM_FEATURES,
        code=uses("workflow/scripts/ablate_hsfm.py"),
    output:
        "results/{dataset}/run{run}/studies/ablations.parquet",
    log:
        "logs/{dataset}/run{run}/ablate_hsfm.log",
    benchmark:
        "logs/{dataset}/run{run}/ablate_hsfm.tsv"
    priority: 50
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        gpu=gpus,
        mem_mb=memory(4000, train=3, val=3, test=3),
        runtime=240,
    params:
        settings=setting("hsfm"),
        hard_set=setting("hard_set"),
        seeds=config["seeds"],
        device=config["device"],
    message:
        "Taking parts of HSFM away on {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/ablate_hsfm.py"


rule bias_validation:
    input:
        **ERM_FEATURES,
        code=uses("workflow/scripts/bias_validation.py"),
    output:
        "results/{dataset}/run{run}/studies/validation_bias.parquet",
    log:
        "logs/{dataset}/run{run}/bias_validation.log",
    benchmark:
        "logs/{dataset}/run{run}/bias_validation.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000, train=4, val=4, test=4),
        runtime=720,
    params:
        settings=settings_of("validation_bias", "hsfm", "hard_set", "dfr", "llr"),
    message:
        "Fitting on biased validation splits of {wildcards.dataset}, run {wildcards.run}"
    script:
        "../scripts/bias_validation.py"


rule tabulate_study:
    input:
        results=expand(
            "results/{dataset}/run{run}/studies/{study}.parquet", dataset=DATASETS, run=RUNS, allow_missing=True
        ),
        code=uses("workflow/scripts/tabulate_study.py"),
    output:
        reported(table_files("{study}")),
    log:
        "logs/tabulate_{study}.log",
    benchmark:
        "logs/tabulate_{study}.tsv"
    wildcard_constraints:
        study="sweep|ablations|validation_bias",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=10,
    message:
        "Making the table of {wildcards.study}"
    script:
        "../scripts/tabulate_study.py"


rule draw_study:
    input:
        results=expand("results/{dataset}/run{run}/studies/{study}.parquet", run=RUNS, allow_missing=True),
        code=uses("workflow/scripts/draw_study.py"),
        style=STYLE,
    output:
        reported(figure_files("{study}")),
    log:
        "logs/{dataset}/draw_{study}.log",
    benchmark:
        "logs/{dataset}/draw_{study}.tsv"
    wildcard_constraints:
        study="sweep|validation_bias",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(1000),
        runtime=10,
    message:
        "Drawing {wildcards.study} of {wildcards.dataset}"
    script:
        "../scripts/draw_study.py"
