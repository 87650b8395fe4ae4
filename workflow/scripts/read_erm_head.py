"""Read ERM's own head out of a trained network; apart from the training, so that work on heads leaves that valid."""

import json

from hsfm.core import job
from hsfm.core.files import require, sha256
from hsfm.heads.head import Head, SavedHeads, stack, write_heads
from hsfm.models.backbone import read_checkpoint


def read_erm_head(checkpoint: str, heads: str, run: int) -> None:
    trained = read_checkpoint(checkpoint)
    fc = trained.network.fc
    require(trained.metadata, ["settings"], checkpoint)
    settings = json.loads(trained.metadata["settings"])
    chosen_by = {"last": "the last epoch", "best_val": "the best validation average"}
    saved = SavedHeads(
        head=stack([Head(fc.weight.detach(), fc.bias.detach())]),
        method="erm",
        seeds=(run,),
        class_names=trained.class_names,
        checkpoint_sha256=sha256(checkpoint),
        group_labels="none",
        chosen_by=chosen_by[settings["training"]["checkpoint"]] if "training" in settings else "its own, as given",
        settings=settings,
    )
    write_heads(heads, saved)


job.start(snakemake.log[0])
read_erm_head(snakemake.input.checkpoint, snakemake.output.heads, int(snakemake.wildcards.run))
job.finish("ERM", "head read out of its network")
