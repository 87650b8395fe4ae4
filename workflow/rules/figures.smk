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
    log:
        "logs/{dataset}/draw_scores.log",
    benchmark:
        "logs/{dataset}/draw_scores.tsv"
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
    log:
        "logs/{dataset}/draw_method.log",
    benchmark:
        "logs/{dataset}/draw_method.tsv"
    params:
        **code_of("draw_method", STYLE),
        run=plan.runs[0],
    message:
        "Drawing HSFM on {wildcards.dataset} as its method goes"
