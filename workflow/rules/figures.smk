rule draw_figure:
    input:
        unpack(inputs_of_figure),
        code=uses("workflow/scripts/draw_figure.py"),
        style=STYLE,
    output:
        multiext("results/figures/{dataset}/{figure}", ".png", ".pdf"),
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
