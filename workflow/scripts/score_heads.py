"""Score the heads of one method on every split, and keep what they predict on the test images."""

import pandas as pd

from hsfm.core import job
from hsfm.core.text import on_test
from hsfm.data.table import SPLITS
from hsfm.evaluation.predictions import gather, predict, write_predictions
from hsfm.evaluation.scores import score_heads, write_scores
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.head import read_heads
from hsfm.report.names import method_label

job.start(snakemake.log[0])
run, outputs = int(snakemake.wildcards.run), snakemake.output
frames, predicted = [], []
# one file of heads, or one per seed where each has features of its own; for each the three splits
for number, path in enumerate(snakemake.input.heads):
    files = snakemake.input.embeddings[len(SPLITS) * number :][: len(SPLITS)]
    saved = read_heads(path)
    splits = [read_embeddings(file, split=split) for split, file in zip(SPLITS, files, strict=True)]
    for part, file in zip(splits, files, strict=True):
        saved.check_fits(part, file)
    frames.append(score_heads(saved, splits, run))
    predicted.append(predict(saved, splits[-1], run))
scores, predictions = pd.concat(frames, ignore_index=True), gather(predicted)
metadata = {"checkpoint_sha256": predictions.checkpoint_sha256}
if saved.left_out:
    metadata["left_out"] = {"dataset": predictions.dataset, "method": saved.method, "reason": saved.left_out}
write_scores(outputs.scores, scores, metadata)
write_predictions(outputs.predictions, predictions)
job.finish(method_label(saved.method), f"left out: {saved.left_out}" if saved.left_out else on_test(scores))
