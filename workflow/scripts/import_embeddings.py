"""Bring embeddings that a user has into the form of the workflow."""

from dataclasses import replace

from hsfm.core import job
from hsfm.core.text import by_split
from hsfm.features.embeddings import EmbeddingSettings, write_embeddings
from hsfm.features.imported import import_embeddings

job.start(snakemake.log[0])
settings = EmbeddingSettings(**snakemake.params.settings)
paths = {"train": settings.train, "val": settings.val, "test": settings.test}
splits = import_embeddings(paths, snakemake.wildcards.dataset)
for split, output in snakemake.output.items():
    write_embeddings(output, replace(splits[split], min_group=settings.min_group))
rows = by_split({split: len(part.y) for split, part in splits.items()})
job.finish("Embeddings", f"{rows}, {splits['train'].features.shape[1]} features")
