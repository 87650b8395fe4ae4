"""Score the heads of one method on every split."""

import pandas as pd

from hsfm import job
from hsfm.embeddings import read_embeddings
from hsfm.head import read_heads
from hsfm.scores import SPLITS, score, write_scores


def score_heads(heads: str, embeddings: list[str], scores: str, run: int, method: str) -> None:
    saved = read_heads(heads)
    frames = []
    for split, path in zip(SPLITS, embeddings, strict=True):
        part = read_embeddings(path, split=split)
        saved.check_fits(part, path)
        frame = score(
            saved.head.predict(part.features).numpy(),
            part.y.numpy(),
            part.attribute.numpy(),
            seeds=saved.seeds,
            class_names=part.class_names,
            attribute_names=part.attribute_names,
        )
        frames.append(frame.assign(split=split, dataset=part.dataset))
    frame = pd.concat(frames, ignore_index=True).assign(
        run=run, method=method, group_labels=saved.group_labels, chosen_by=saved.chosen_by
    )
    frame["remark"] = frame["seed"].map(dict(zip(saved.seeds, saved.remarks or [""] * len(saved.seeds), strict=True)))
    write_scores(scores, frame, {"checkpoint_sha256": saved.checkpoint_sha256})


job.start(snakemake.log[0])
score_heads(
    snakemake.input.heads,
    snakemake.input.embeddings,
    snakemake.output.scores,
    int(snakemake.wildcards.run),
    snakemake.wildcards.method,
)
