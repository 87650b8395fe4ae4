"""Read ERM's own head out of a trained network; apart from the training, so that work on heads leaves that valid."""

import json

from hsfm.core import job
from hsfm.core.files import sha256
from hsfm.heads.head import Head, SavedHeads, stack, write_heads
from hsfm.models.backbone import read_checkpoint

CHOSEN_BY = {None: "its own, as given", "last": "the last epoch", "best_val": "the best validation average"}

job.start(snakemake.log[0])
path = snakemake.input.checkpoint
trained = read_checkpoint(path)
settings = json.loads(trained.metadata["settings"])
saved = SavedHeads(
    head=stack([Head.of(trained.network.fc)]),
    method="erm",
    seeds=(int(snakemake.wildcards.run),),
    class_names=trained.class_names,
    checkpoint_sha256=sha256(path),
    group_labels="none",
    chosen_by=CHOSEN_BY[settings.get("training", {}).get("checkpoint")],
    settings=settings,
)
write_heads(snakemake.output.heads, saved)
job.finish("ERM", "head read out of its network")
