"""Train a network by ERM on the training images of one dataset."""

from hsfm import job
from hsfm.training_job import run

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
run(
    {
        "images": snakemake.input.images,
        "cache": list(snakemake.input.cache),
        "checkpoint": snakemake.output.checkpoint,
        "history": snakemake.output.history,
        "run": int(snakemake.wildcards.run),
        "settings": dict(snakemake.params.items()),
        "code": list(snakemake.input.code),
    },
    gpus=snakemake.resources.gpu,
    log_file=snakemake.log[0],
)
