"""Fit AFR's head on the training images that its network has not seen."""

import json

from hsfm import job
from hsfm.backbone import read_checkpoint
from hsfm.baselines.afr import SELECT_BY, fit_afr
from hsfm.device import choose_device
from hsfm.embeddings import read_embeddings
from hsfm.files import write_frame
from hsfm.head import Head, SavedHeads, stack, write_heads
from hsfm.holdout import hold_out


def fit(inputs: dict[str, str], outputs: dict[str, str], run: int, settings: dict, device: str) -> None:
    train, val = (read_embeddings(inputs[split], split=split) for split in ("train", "val"))
    trained = read_checkpoint(inputs["checkpoint"])
    share = json.loads(trained.metadata["settings"])["training"]["holdout"]
    rows = hold_out(train.y, share, run)
    place = choose_device(device)
    erm = Head(trained.network.fc.weight.detach(), trained.network.fc.bias.detach())
    result = fit_afr(train.take(rows).to(place), val.to(place), erm.to(place), **settings)
    write_frame(outputs["history"], result.history)
    saved = SavedHeads(
        head=stack([result.head]),
        method="afr",
        seeds=(0,),
        class_names=train.class_names,
        checkpoint_sha256=train.checkpoint_sha256,
        group_labels="selection" if settings["select_by"] == "worst_group" else "none",
        chosen_by=SELECT_BY[settings["select_by"]],
        settings={
            **settings, "holdout": share, "gamma": result.gamma, "penalty": result.penalty, "step": result.step,
        },
    )  # fmt: skip
    saved.check_fits(val, inputs["val"])
    job.log.info("gamma %g, lambda %g, step %d", result.gamma, result.penalty, result.step)
    write_heads(outputs["heads"], saved)


job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
fit(
    dict(snakemake.input.items()),
    dict(snakemake.output.items()),
    int(snakemake.wildcards.run),
    snakemake.params.settings,
    snakemake.params.device,
)
