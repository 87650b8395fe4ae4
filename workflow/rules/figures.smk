# Figures of one dataset, in two jobs: those of scores and histories alone are drawn on this machine.
for DATASET in plan.datasets:

    rule:
        name:
            f"draw_scores_{DATASET}"
        input:
            unpack(results.drawn_from),
        output:
            **{name: reported(files) for name, files in results.drawn(DATASET, OF_SCORES).items()},
        log:
            "logs/{dataset}/draw_scores.log",
        wildcard_constraints:
            dataset=DATASET,
        localrule: True
        conda:
            "../../environment.yml"
        params:
            **code_of("draw_scores", STYLE),
        message:
            "Drawing the scores of {wildcards.dataset}"
        script:
            "../scripts/{params.script}.py"

    if results.drawn(DATASET, OF_FEATURES):

        rule:
            name:
                f"draw_figures_{DATASET}"
            input:
                unpack(results.pictured_from),
            output:
                **{name: reported(files) for name, files in results.drawn(DATASET, OF_FEATURES).items()},
            log:
                "logs/{dataset}/draw_figures.log",
            wildcard_constraints:
                dataset=DATASET,
            conda:
                "../../environment.yml"
            resources:
                mem_mb=memory(4000),
                runtime=240,
            params:
                **code_of("draw_figures", STYLE),
                run=plan.runs[0],
                finder=next(iter(plan.finders(DATASET)), None),
                transform=plan.section("transform") if DATASET in plan.with_images else {},
                dac=plan.sections("invert", "quantile", of="dac") if "masks" in results.figures_of(DATASET) else {},
            message:
                "Drawing what the methods of {wildcards.dataset} make of its images"
            script:
                "../scripts/{params.script}.py"


for STUDY in (study for study in plan.studies if study in STUDY_FIGURES):

    rule:
        name:
            f"draw_{STUDY}"
        input:
            results=lambda wildcards, study=STUDY: plan.of_study(study, wildcards.dataset),
        output:
            reported(figure_files(STUDY)),
        log:
            f"logs/{{dataset}}/draw_{STUDY}.log",
        localrule: True
        conda:
            "../../environment.yml"
        params:
            **code_of("draw_study", STYLE),
        message:
            f"Drawing {STUDY} of {{wildcards.dataset}}"
        script:
            "../scripts/{params.script}.py"
