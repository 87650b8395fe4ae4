"""Fit HSFM's heads, all seeds."""

from hsfm.core import job
from hsfm.core.device import choose_device
from hsfm.core.files import write_frame
from hsfm.core.text import kept_epochs
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.hard_set import read_hard_set
from hsfm.heads.head import SavedHeads, read_heads, write_heads
from hsfm.methods.hsfm import train as meta


def fit_hsfm(inputs: dict[str, str], outputs: dict[str, str], seeds: list[int], settings: dict, device: str) -> str:
    train, val = (read_embeddings(inputs[split], split=split) for split in ("train", "val"))
    erm = read_heads(inputs["heads"])
    for split, embeddings in (("train", train), ("val", val)):
        erm.check_fits(embeddings, inputs[split])
    first_hard_set = read_hard_set(inputs["hard_set"], val, per_class=settings["hard_per_class"])
    if settings["outer_set"] == "random":
        first_hard_set = None
    place = choose_device(device)
    result = meta.train(
        train.to(place), val.to(place), erm.head[0].to(place), seeds=seeds, **settings, first_hard_set=first_hard_set
    )
    write_frame(outputs["history"], result.history)
    write_frame(outputs["hard_groups"], meta.hard_groups(result, val))
    meta.write_support(outputs["support"], result, train)
    saved = SavedHeads(
        head=result.head,
        method="hsfm",
        seeds=result.seeds,
        class_names=train.class_names,
        checkpoint_sha256=train.checkpoint_sha256,
        group_labels="selection" if settings["select_by"] == "worst_group" else "none",
        chosen_by=meta.SELECT_BY[settings["select_by"]],
        settings={**settings, "kept_epoch": result.kept_epoch.tolist(), "moved": result.moved.tolist()},
        remarks=result.remarks,
    )
    write_heads(outputs["heads"], saved)
    return kept_epochs(result.history)


job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
kept = fit_hsfm(
    dict(snakemake.input.items()),
    dict(snakemake.output.items()),
    snakemake.params.seeds,
    {**snakemake.params.settings, **snakemake.params.hard_set},
    snakemake.params.device,
)
job.finish("HSFM", kept)
