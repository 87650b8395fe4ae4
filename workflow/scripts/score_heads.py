"""Score the heads of one method on every split."""

import pandas as pd

from hsfm import job
from hsfm.embeddings import read_embeddings
from hsfm.files import write_frame
from hsfm.head import read_heads
from hsfm.scores import score


def score_heads(heads: str, embeddings: list[str], scores: str, run: int, method: str) -> None:
    saved = read_heads(heads)
    frames = []
    for path in embeddings:
        part = read_embeddings(path)
        saved.check_fits(part, path)
        frame = score(
            saved.head.predict(part.features),
            part.y,
            part.attribute,
            seeds=saved.seeds,
            class_names=part.class_names,
            attribute_names=part.attribute_names,
        )
        frame.insert(1, "split", part.split)
        frames.append(frame)
    frame = pd.concat(frames, ignore_index=True)
    for place, (name, value) in enumerate(
        (("dataset", part.dataset), ("run", run), ("method", method), ("group_labels", saved.group_labels))
    ):
        frame.insert(place, name, value)
    write_frame(scores, frame)


job.start(snakemake.log[0])
score_heads(
    snakemake.input.heads,
    snakemake.input.embeddings,
    snakemake.output.scores,
    int(snakemake.wildcards.run),
    snakemake.wildcards.method,
)
