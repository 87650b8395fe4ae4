"""Merge a trained network and one head into a file that torchvision loads."""

from hsfm.core import job
from hsfm.deploy.export import export_model

job.start(snakemake.log[0])
export_model(
    snakemake.output.model,
    checkpoint=snakemake.input.checkpoint,
    heads=snakemake.input.heads[0],
    standardization=snakemake.input.standardization,
    seed=int(snakemake.wildcards.seed),
)
job.finish("Export", f"{snakemake.wildcards.method} in {snakemake.output.model}")
