"""Draw one figure of one dataset."""

from matplotlib.figure import Figure

from hsfm.core import job
from hsfm.evaluation.groups import validation_groups, worst_by_run
from hsfm.evaluation.scores import read_all_scores
from hsfm.report import figures
from hsfm.report.histories import read_hard_groups, read_training, written
from hsfm.report.pictures import draw_examples


def draw_figure(name: str, inputs: dict, dataset: str) -> Figure:
    if name == "examples":
        from hsfm.data.open_images import read_examples  # the other figures do not wait for torch

        title = f"{dataset}: training images by class and attribute, with the group's share"
        return draw_examples(read_examples(inputs["images"]), title)
    scores = read_all_scores(inputs["scores"])
    if name == "hard_set":
        groups = validation_groups(scores)
        counts = read_hard_groups(inputs["hard_groups"], groups)
        return figures.draw_hard_set(counts, groups, f"{dataset}: what HSFM's hard set holds")
    there = {method: written(paths) for method, paths in inputs.items() if method != "scores"}
    histories = {method: read_training(method, paths) for method, paths in there.items() if paths}
    erm = histories.pop("erm", None)
    return figures.draw_training(erm, histories, worst_by_run(scores, "erm"), f"{dataset}: training")


job.start(snakemake.log[0])
for path in snakemake.output:
    # drawn anew for each: a layout that was computed once moves at the second save
    figure = draw_figure(snakemake.params.figure, dict(snakemake.input.items()), snakemake.wildcards.dataset)
    figures.save(figure, path)
job.finish("Figure", snakemake.output[0])
