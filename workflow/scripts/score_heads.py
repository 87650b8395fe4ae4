"""Score the heads of one method on every split."""

import pandas as pd

from hsfm import job
from hsfm.embeddings import read_embeddings
from hsfm.head import SavedHeads, read_heads
from hsfm.methods import method_label
from hsfm.scores import SPLITS, score_splits, write_scores
from hsfm.summary import on_test


def score_heads(heads: list[str], embeddings: list[str], scores: str, run: int) -> pd.DataFrame:
    """heads: a file, or one per seed where each has features of its own; embeddings: for each the three splits.

    The method is what the heads say, which tells variants of one rule apart.
    """
    frames, origins = [], []
    for number, path in enumerate(heads):
        saved = read_heads(path)
        origins.append(saved.checkpoint_sha256)
        frames.append(score(saved, embeddings[number * len(SPLITS) : (number + 1) * len(SPLITS)]))
    frame = pd.concat(frames, ignore_index=True).assign(run=run)
    write_scores(scores, frame, {"checkpoint_sha256": ", ".join(origins)})
    return frame


def score(saved: SavedHeads, embeddings: list[str]) -> pd.DataFrame:
    splits = [read_embeddings(path, split=split) for split, path in zip(SPLITS, embeddings, strict=True)]
    for part, path in zip(splits, embeddings, strict=True):
        saved.check_fits(part, path)
    frame = score_splits(saved.head, splits, seeds=saved.seeds).assign(
        method=saved.method, group_labels=saved.group_labels, chosen_by=saved.chosen_by
    )
    frame["remark"] = frame["seed"].map(dict(zip(saved.seeds, saved.remarks or [""] * len(saved.seeds), strict=True)))
    return frame


job.start(snakemake.log[0])
scores = score_heads(
    list(snakemake.input.heads),
    list(snakemake.input.embeddings),
    snakemake.output.scores,
    int(snakemake.wildcards.run),
)
job.finish(method_label(scores["method"].iloc[0]), on_test(scores))
