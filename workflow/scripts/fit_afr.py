"""Fit AFR's head on the training images that its network has not seen."""

import json

from hsfm.core import job
from hsfm.core.device import choose_device
from hsfm.core.files import sha256, write_frame
from hsfm.core.text import percent
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.head import Head, SavedHeads, picked_by, stack, write_heads
from hsfm.methods.afr import SELECT_BY, fit_afr
from hsfm.models.backbone import read_checkpoint
from hsfm.models.holdout import hold_out

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, settings, run = snakemake.input, snakemake.params.settings, int(snakemake.wildcards.run)
train, val = (read_embeddings(files[split], split=split) for split in ("train", "val"))
trained = read_checkpoint(files.checkpoint)
holdout = json.loads(trained.metadata["settings"])["training"]["holdout"]
place = choose_device(snakemake.params.device)
held_out = train.take(hold_out(train.y, holdout, run)).to(place)
result = fit_afr(held_out, val.to(place), Head.of(trained.network.fc).to(place), **settings)
saved = SavedHeads(
    head=stack([result.head]),
    method="afr",
    seeds=(run,),
    class_names=train.class_names,
    checkpoint_sha256=sha256(files.checkpoint),
    **picked_by(settings["select_by"], SELECT_BY),
    settings={**settings, "holdout": holdout, "gamma": result.gamma, "penalty": result.penalty, "step": result.step},
)
for split in (train, val):
    saved.check_fits(split, files[split.split])
write_frame(snakemake.output.history, result.history)
write_heads(snakemake.output.heads, saved)
rule = settings["select_by"]
worst = percent(result.history.loc[result.history["kept"], f"val_{rule}"])
pair = f"gamma {result.gamma:g}, lambda {result.penalty:g}, step {result.step}"
job.finish("AFR", f"validation {rule.replace('_', ' ')} {worst} ({pair})")
