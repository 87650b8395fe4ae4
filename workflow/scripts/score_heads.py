"""Score the heads of one method on every split."""

from hsfm import job
from hsfm.embeddings import read_embeddings
from hsfm.head import read_heads
from hsfm.scores import SPLITS, score_splits, write_scores


def score_heads(heads: str, embeddings: list[str], scores: str, run: int, method: str) -> None:
    saved = read_heads(heads)
    splits = [read_embeddings(path, split=split) for split, path in zip(SPLITS, embeddings, strict=True)]
    for part, path in zip(splits, embeddings, strict=True):
        saved.check_fits(part, path)
    frame = score_splits(saved.head, splits, seeds=saved.seeds).assign(
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
