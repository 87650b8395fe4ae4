"""Score the heads of all methods of one run on every split, and keep what they predict on the test images."""

from functools import lru_cache

import pandas as pd

from hsfm.core import job
from hsfm.core.text import on_test, worst_and_average
from hsfm.data.table import SPLITS
from hsfm.evaluation.predictions import gather, predict, write_predictions
from hsfm.evaluation.scores import score_heads, write_scores
from hsfm.features.embeddings import Embeddings, read_embeddings
from hsfm.heads.head import read_heads
from hsfm.report.names import method_label

job.start(snakemake.log[0])
inputs, outputs, run = snakemake.input, snakemake.output, int(snakemake.wildcards.run)


@lru_cache(maxsize=1)  # methods on the same network come one after the other
def embeddings(network: int) -> list[Embeddings]:
    files = inputs.embeddings[len(SPLITS) * network :][: len(SPLITS)]
    return [read_embeddings(file, split=split) for split, file in zip(SPLITS, files, strict=True)]


heads, found = iter(inputs.heads), []
# of each row of the tables the networks of its files of heads: one, or one per seed where each has its own
for number, networks in enumerate(snakemake.params.networks):
    frames, predicted = [], []
    for network in networks:
        path, splits = next(heads), embeddings(network)
        saved = read_heads(path)
        for part, file in zip(splits, inputs.embeddings[len(SPLITS) * network :], strict=False):
            saved.check_fits(part, file)
        frames.append(score_heads(saved, splits, run))
        predicted.append(predict(saved, splits[-1], run))
    scores, predictions = pd.concat(frames, ignore_index=True), gather(predicted)
    metadata = {"checkpoint_sha256": predictions.checkpoint_sha256}
    if saved.left_out:
        metadata["left_out"] = {"dataset": predictions.dataset, "method": saved.method, "reason": saved.left_out}
    write_scores(outputs.scores[number], scores, metadata)
    write_predictions(outputs.predictions[number], predictions)
    label = method_label(saved.method)
    job.log.info("%s: %s", label, f"left out: {saved.left_out}" if saved.left_out else on_test(scores))
    found.append(f"{label} {'left out' if saved.left_out else worst_and_average(scores)[0]}")
job.finish("Test worst group", ", ".join(found))
