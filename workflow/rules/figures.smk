for FIGURE, SCRIPT, INPUTS in results.drawn:

    rule:
        name:
            f"draw_{FIGURE}"
        input:
            unpack(INPUTS),
        output:
            reported(figure_files(FIGURE)),
        log:
            f"logs/{{dataset}}/draw_{FIGURE}.log",
        benchmark:
            f"logs/{{dataset}}/draw_{FIGURE}.tsv"
        localrule: True
        conda:
            "../../environment.yml"
        params:
            **code_of(SCRIPT, STYLE),
            figure=FIGURE,
        message:
            f"Drawing {FIGURE} of {{wildcards.dataset}}"
        script:
            "../scripts/{params.script}.py"


use rule stage as draw_method with:
    input:
        unpack(results.of_method),
        cache=plan.store,
    output:
        reported(figure_files("method")),
    log:
        "logs/{dataset}/draw_method.log",
    benchmark:
        "logs/{dataset}/draw_method.tsv"
    resources:
        mem_mb=memory(4000, train=3, val=3),
        runtime=60,
    params:
        **code_of("draw_method", STYLE),
        run=plan.runs[0],
        decode_size=plan.decode_size,
    message:
        "Drawing HSFM on {wildcards.dataset} as its method goes"
