"""Bring embeddings that a user has into the form of the workflow."""

from hsfm import job
from hsfm.embeddings import write_embeddings
from hsfm.features import import_embeddings
from hsfm.summary import by_split

job.start(snakemake.log[0])
paths = {split: snakemake.params.settings[split] for split in ("train", "val", "test")}
splits = import_embeddings(paths, snakemake.wildcards.dataset)
for split, output in snakemake.output.items():
    write_embeddings(output, splits[split])
rows = by_split({split: len(part.y) for split, part in splits.items()})
job.finish("Embeddings", f"{rows}, {splits['train'].features.shape[1]} features")
