"""Fit DaC's head of one seed."""

import json

from hsfm.core import job
from hsfm.core.device import Compute, choose_device
from hsfm.core.files import sha256, write_frame
from hsfm.core.text import kept_epochs
from hsfm.data.open_images import open_source
from hsfm.data.pixels import ImageFiles, Images
from hsfm.data.store import CacheFiles
from hsfm.data.table import read_images
from hsfm.features.embeddings import Embeddings, read_embeddings
from hsfm.heads.classifier import read_classifier
from hsfm.heads.head import Head, SavedHeads, read_heads, stack, write_heads
from hsfm.methods.dac.fit import SELECT_BY, fit_dac
from hsfm.methods.dac.masks import read_masks
from hsfm.models.backbone import write_checkpoint


def fit(inputs: dict, outputs: dict, seed: int, cache: CacheFiles | None, settings: dict) -> str:
    # its network's own head is not used, but is known to fit the embeddings
    model = read_classifier(inputs["checkpoint"], inputs["heads"], standardisation=inputs["standardisation"])
    train, val = (read_embeddings(inputs[split], split=split) for split in ("train", "val"))
    erm = read_heads(inputs["heads"])
    for split, embeddings in (("train", train), ("val", val)):
        erm.check_fits(embeddings, inputs[split])
    masks = read_masks(inputs["masks"], split="train")
    if masks.about["checkpoint_sha256"] != model.checkpoint_sha256:
        raise ValueError(
            f"{inputs['masks']}: masks are of checkpoint {masks.about['checkpoint_sha256']}, but "
            f"{inputs['checkpoint']} is {model.checkpoint_sha256}"
        )
    masks.require_transform(settings["transform"])
    table = read_images(inputs["images"])
    source = open_source(inputs["images"], cache)

    def pixels(split: str) -> Images | ImageFiles:
        rows = table.split(split)
        expected = {"train": train, "val": val}[split].image_id
        if tuple(rows["image_id"]) != expected:
            raise ValueError(f"{inputs['images']}: lists other {split} images than {inputs[split]}")
        return source(rows)

    dac = dict(settings["dac"])
    result = fit_dac(
        model.trained.network,
        train,
        val,
        erm.head[0],
        masks.of(train.image_id),
        pixels,
        model.standardisation if settings["standardised"] else None,
        seed=seed,
        **dac,
        transform=settings["transform"],
        compute=Compute(choose_device(settings["device"]), **settings["compute"]),
    )
    write_frame(outputs["history"], result.history)
    origin, remark = train.checkpoint_sha256, ""
    if result.network is not None:
        result.network.cpu().fc.load_state_dict({"weight": result.head.weight, "bias": result.head.bias})
        write_checkpoint(
            outputs["checkpoint"],
            result.network,
            name=model.trained.name,
            class_names=model.trained.class_names,
            metadata={**model.trained.metadata, "settings": json.dumps({"dac": dac, "seed": seed})},
        )
        origin = sha256(outputs["checkpoint"])
        remark = "scored on features of its own, since BatchNorm's statistics drifted"
    write_heads(
        outputs["heads"], saved(result.head, seed, train, origin, remark, {**dac, "masks": masks.about["source"]})
    )
    return kept_epochs(result.history)


def saved(head: Head, seed: int, train: Embeddings, origin: str, remark: str, settings: dict) -> SavedHeads:
    rule = settings["select_by"]
    return SavedHeads(
        head=stack([head]),
        method="dac",
        seeds=(seed,),
        class_names=train.class_names,
        checkpoint_sha256=origin,
        group_labels="selection" if rule == "worst_group" else "none",
        chosen_by=SELECT_BY[rule],
        settings=settings,
        remarks=(remark,),
    )


job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
kept = fit(
    dict(snakemake.input.items()),
    dict(snakemake.output.items()),
    int(snakemake.wildcards.seed),
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
    dict(snakemake.params.items()),
)
job.finish("DaC", kept)
