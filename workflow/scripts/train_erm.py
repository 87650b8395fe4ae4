"""Train a network by ERM on the training images of one dataset."""

from importlib import import_module
from pathlib import Path

from hsfm.core import job
from hsfm.core.files import read_frame
from hsfm.core.text import kept_epochs
from hsfm.data.table import read_images
from hsfm.models.training_job import start_training

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
table = read_images(snakemake.input.images)
# not in the hash of this job's code, for it changes no output
asked = snakemake.config["asked_of_labels"][table.dataset]
import_module("hsfm.deploy.label_checks").check_table(table, asked)
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
