"""Bring embeddings that a user has into the form of the workflow."""

from hsfm import job
from hsfm.embeddings import write_embeddings
from hsfm.features import import_embeddings

job.start(snakemake.log[0])
paths = {split: snakemake.params.settings[split] for split in ("train", "val", "test")}
splits = import_embeddings(paths, snakemake.wildcards.dataset)
for split, output in snakemake.output.items():
    write_embeddings(output, splits[split])
