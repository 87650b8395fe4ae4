"""Bring embeddings that a user has into the form of the workflow."""

from dataclasses import replace
from importlib import import_module

from hsfm.core import job
from hsfm.core.text import by_split
from hsfm.features.embeddings import EmbeddingSettings, write_embeddings
from hsfm.features.imported import import_embeddings

job.start(snakemake.log[0])
settings = EmbeddingSettings(**snakemake.params.settings)
paths = {"train": settings.train, "val": settings.val, "test": settings.test}
splits = import_embeddings(paths, snakemake.wildcards.dataset)
splits = {split: replace(part, min_group=settings.min_group) for split, part in splits.items()}
for split, output in snakemake.output.items():
    write_embeddings(output, splits[split])
# not in the hash of this job's code, for it changes no output
asked = snakemake.config["asked_of_labels"][snakemake.wildcards.dataset]
import_module("hsfm.deploy.label_checks").check_splits(splits, asked, speaks=True)
rows = by_split({split: len(part.y) for split, part in splits.items()})
job.finish("Embeddings", f"{rows}, {splits['train'].features.shape[1]} features")
