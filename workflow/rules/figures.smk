# Figures of one dataset that one rule each draws; on this machine those that need no images out of the store.
for FIGURE, (SCRIPT, INPUTS, PARAMS) in results.drawn.items():

    rule:
        name:
            f"draw_{FIGURE}"
        input:
            **INPUTS,
        output:
            reported(figure_files(FIGURE)),
        log:
            f"logs/{{dataset}}/draw_{FIGURE}.log",
        localrule: "cache" not in INPUTS
        conda:
            "../../environment.yml"
        resources:
            mem_mb=memory(4000),
            runtime=240,
        params:
            **code_of(SCRIPT, STYLE),
            **PARAMS,
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
    log:
        "logs/{dataset}/draw_scores.log",
    localrule: True
    params:
        **code_of("draw_scores", STYLE),
    message:
        "Drawing the scores of {wildcards.dataset}"
