"""Score the heads of one method on every split, and keep what they predict on the test images."""

import pandas as pd

from hsfm.core import job
from hsfm.core.text import on_test
from hsfm.evaluation.predictions import Predictions, check_counts, gather, write_predictions
from hsfm.evaluation.scores import SPLITS, score_splits, write_scores
from hsfm.features.embeddings import Embeddings, read_embeddings
from hsfm.heads.head import SavedHeads, read_heads
from hsfm.report.names import method_label


def score_heads(heads: list[str], embeddings: list[str], scores: str, predictions: str, run: int) -> pd.DataFrame:
    """heads: a file, or one per seed where each has features of its own; embeddings: for each the three splits.

    The method is what the heads say, which tells variants of one rule apart.
    """
    frames, predicted = [], []
    for number, path in enumerate(heads):
        saved = read_heads(path)
        splits = read_splits(embeddings[number * len(SPLITS) : (number + 1) * len(SPLITS)], saved)
        frames.append(score(saved, splits))
        predicted.append(predict(saved, splits[-1], run))
    frame = pd.concat(frames, ignore_index=True).assign(run=run)
    together = gather(predicted, predictions)
    check_counts(together, frame, predictions)
    write_scores(scores, frame, {"checkpoint_sha256": together.checkpoint_sha256})
    write_predictions(predictions, together)
    return frame


def read_splits(paths: list[str], saved: SavedHeads) -> list[Embeddings]:
    splits = [read_embeddings(path, split=split) for split, path in zip(SPLITS, paths, strict=True)]
    for part, path in zip(splits, paths, strict=True):
        saved.check_fits(part, path)
    return splits


def score(saved: SavedHeads, splits: list[Embeddings]) -> pd.DataFrame:
    frame = score_splits(saved.head, splits, seeds=saved.seeds).assign(
        method=saved.method, group_labels=saved.group_labels, chosen_by=saved.chosen_by
    )
    frame["remark"] = frame["seed"].map(dict(zip(saved.seeds, saved.remarks or [""] * len(saved.seeds), strict=True)))
    return frame


def predict(saved: SavedHeads, test: Embeddings, run: int) -> Predictions:
    return Predictions(
        dataset=test.dataset,
        run=run,
        method=saved.method,
        seeds=saved.seeds,
        classes=test.n_classes,
        image_id=test.image_id,
        y=test.y.numpy(),
        attribute=test.attribute.numpy(),
        group=test.group.numpy(),
        predicted=saved.head.predict(test.features).numpy().T,
        checkpoint_sha256=saved.checkpoint_sha256,
    )


job.start(snakemake.log[0])
scores = score_heads(
    list(snakemake.input.heads),
    list(snakemake.input.embeddings),
    snakemake.output.scores,
    snakemake.output.predictions,
    int(snakemake.wildcards.run),
)
job.finish(method_label(scores["method"].iloc[0]), on_test(scores))
