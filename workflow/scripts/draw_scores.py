"""Draw what is known of the methods of one dataset without its images: scores, trainings, the hard set."""

from matplotlib.figure import Figure

from hsfm.core import job
from hsfm.evaluation.groups import validation_groups, worst_by_run
from hsfm.evaluation.scores import read_all_scores
from hsfm.report import figures
from hsfm.report.histories import read_hard_groups, read_training, written
from hsfm.report.tables import aggregate, summarize

job.start(snakemake.log[0])
dataset, inputs = snakemake.wildcards.dataset, dict(snakemake.input.items())
scores = read_all_scores(inputs.pop("scores"))
hard_groups = inputs.pop("hard_groups", None)


def groups() -> Figure:
    return figures.draw_groups(scores, f"{dataset}: test accuracy by group")


def tradeoff() -> Figure:
    summary = summarize(scores)
    return figures.draw_tradeoff(summary, aggregate(summary), dataset)


def training() -> Figure:
    there = {method: written(paths) for method, paths in inputs.items()}
    histories = {method: read_training(method, paths) for method, paths in there.items() if paths}
    erm = histories.pop("erm", None)
    return figures.draw_training(erm, histories, worst_by_run(scores, "erm"), f"{dataset}: training")


def hard_set() -> Figure:
    of_val = validation_groups(scores)
    return figures.draw_hard_set(
        read_hard_groups(hard_groups, of_val), of_val, f"{dataset}: what HSFM's hard set holds"
    )


DRAW = {"groups": groups, "tradeoff": tradeoff, "training": training, "hard_set": hard_set}
for name, files in snakemake.output.items():
    for path in files:
        # drawn anew for each: a layout that was computed once moves at the second save
        figures.save(DRAW[name](), path)
job.finish("Figures", ", ".join(path for path in snakemake.output if path.endswith(".png")))
