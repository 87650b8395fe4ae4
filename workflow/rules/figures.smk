rule draw_figure:
    input:
        unpack(inputs_of_figure),
        code=uses("workflow/scripts/draw_figure.py"),
        style=STYLE,
    output:
        reported(figure_files("{figure}")),
    log:
        "logs/{dataset}/draw_{figure}.log",
    benchmark:
        "logs/{dataset}/draw_{figure}.tsv"
    wildcard_constraints:
        figure="examples|training|groups|hard_set",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=10,
    message:
        "Drawing {wildcards.figure} of {wildcards.dataset}"
    script:
        "../scripts/draw_figure.py"


rule draw_comparison:
    input:
        scores=scores_of_methods,
        code=uses("workflow/scripts/draw_comparison.py"),
        style=STYLE,
    output:
        reported(figure_files("{figure}")),
    log:
        "logs/{dataset}/draw_{figure}.log",
    benchmark:
        "logs/{dataset}/draw_{figure}.tsv"
    wildcard_constraints:
        figure="tradeoff|time",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(2000),
        runtime=10,
    params:
        logs="logs",
    message:
        "Drawing {wildcards.figure} of {wildcards.dataset}"
    script:
        "../scripts/draw_comparison.py"


rule draw_method:
    input:
        unpack(inputs_of_method),
        cache=decoded,
        code=uses("workflow/scripts/draw_method.py"),
        style=STYLE,
    output:
        reported(figure_files("method")),
    log:
        "logs/{dataset}/draw_method.log",
    benchmark:
        "logs/{dataset}/draw_method.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory(4000, train=3, val=3),
        runtime=60,
    params:
        run=RUNS[0],
        decode_size=decode_size,
    message:
        "Drawing HSFM on {wildcards.dataset} as its method goes"
    script:
        "../scripts/draw_method.py"
