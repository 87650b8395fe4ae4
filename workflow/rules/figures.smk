for FIGURE, (SCRIPT, INPUTS) in results.drawn.items():

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


use rule stage as draw_scores with:
    input:
        scores=plan.scores_of_methods,
    output:
        groups=reported(figure_files("groups")),
        tradeoff=reported(figure_files("tradeoff")),
        time=reported(figure_files("time")),
    pathvars:
        record="{dataset}/draw_scores",
    localrule: True
    params:
        **code_of("draw_scores", STYLE),
        stages=STAGES,
    message:
        "Drawing the scores of {wildcards.dataset}"


use rule stage as draw_method with:
    input:
        unpack(results.of_method),
        cache=plan.store,
    output:
        reported(figure_files("method")),
    pathvars:
        record="{dataset}/draw_method",
    params:
        **code_of("draw_method", STYLE),
        run=plan.runs[0],
        decode_size=plan.decode_size,
    message:
        "Drawing HSFM on {wildcards.dataset} as its method goes"
