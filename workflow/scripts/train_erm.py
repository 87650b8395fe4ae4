"""Train a network by ERM on the training images of one dataset."""

from pathlib import Path

from hsfm.core import job
from hsfm.core.files import read_frame
from hsfm.core.text import kept_epochs
from hsfm.models.training_job import start_training

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
start_training(
    {
        "images": snakemake.input.images,
        "cache": list(snakemake.input.cache),
        "checkpoint": snakemake.output.checkpoint,
        "history": snakemake.output.history,
        "run": int(snakemake.wildcards.run),
        "settings": {name: value for name, value in snakemake.params.items() if name not in ("script", "code")},
    },
    gpus=snakemake.resources.gpu,
    code=snakemake.params.code,
    log_file=snakemake.log[0],
)
columns = ["epoch", "val_worst_group", "val_worst_class", "kept"]
network = Path(snakemake.output.checkpoint).parent.name
job.finish(
    "ERM" if network == "erm" else f"ERM for {network.upper()}",
    kept_epochs(read_frame(snakemake.output.history, columns)),
)
