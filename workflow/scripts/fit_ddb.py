"""Retrain ERM's network beside the generated images that were kept, with one seed."""

import json
from pathlib import Path

import pandas as pd
import torch

from hsfm.core import job
from hsfm.core.device import Compute, choose_device
from hsfm.core.files import fingerprint, sha256, write_frame
from hsfm.core.text import kept_epochs
from hsfm.data.open_images import open_source
from hsfm.data.pixels import pack
from hsfm.data.store import CacheFiles
from hsfm.data.table import read_images
from hsfm.heads.classifier import read_classifier
from hsfm.heads.head import Head, SavedHeads, stack, write_heads
from hsfm.methods.ddb.fit import HISTORY_WITHOUT_IMAGES, SELECT_BY, retrain
from hsfm.methods.ddb.generated import GENERATED, PRUNED, read_png, read_table
from hsfm.models.backbone import write_checkpoint
from hsfm.models.erm import LabelledImages

METHODS = {"diffusion": "ddb", "cut_paste": "ddb_cut_paste"}  # how tables call it
OBJECTS_OF = {
    "heat_map": "objects cut out by the heat maps of ERM's network",
    "dataset": "objects cut out along the masks that the dataset knows",
}


def fit(inputs: dict, outputs: dict, seed: int, cache: CacheFiles | None, settings: dict) -> str:
    model = read_classifier(inputs["checkpoint"], inputs["heads"], standardisation=inputs["standardisation"])
    pruned, about = read_table(inputs["pruned"], PRUNED)
    if about["checkpoint_sha256"] != model.checkpoint_sha256:
        raise ValueError(
            f"{inputs['pruned']}: was pruned by checkpoint {about['checkpoint_sha256']}, but {inputs['checkpoint']} is "
            f"{model.checkpoint_sha256}"
        )
    network, retraining = model.trained.network, settings["retrain"]
    generated = kept_images(inputs["generated"], pruned, model.trained.class_names)
    remarks = [OBJECTS_OF[about["source"]]] if about["generator"] == "cut_paste" else []
    without = [name for name, images in zip(model.trained.class_names, generated, strict=True) if images is None]
    if any(generated):
        history = retrain_network(network, generated, seed, inputs, outputs, cache, settings)
        remarks += [f"no generated image of {name} was kept" for name in without]
        rule = SELECT_BY[retraining["select_by"]]
        labels = "selection" if retraining["select_by"] == "worst_group" else "none"
    else:
        # nothing to train on: a network retrained on the old images alone would be another ERM under DDB's name
        history = HISTORY_WITHOUT_IMAGES
        remarks.append("no generated image was kept, so that this is ERM's own network and head")
        rule, labels = "ERM's own", "none"
    write_frame(outputs["history"], history)
    network.cpu()
    write_checkpoint(
        outputs["checkpoint"],
        network,
        name=model.trained.name,
        class_names=model.trained.class_names,
        metadata={**model.trained.metadata, "settings": json.dumps({"ddb": retraining, "seed": seed})},
    )
    saved = SavedHeads(
        head=stack([Head(network.fc.weight.detach(), network.fc.bias.detach())]),
        method=METHODS[about["generator"]],
        seeds=(seed,),
        class_names=model.trained.class_names,
        checkpoint_sha256=sha256(outputs["checkpoint"]),
        group_labels=labels,
        chosen_by=rule,
        settings={**retraining, "generator": about["generator"], "models": about["models"]},
        remarks=("; ".join(remarks),),
    )
    write_heads(outputs["heads"], saved)
    for leftover in Path(outputs["checkpoint"]).parent.glob(".resume-*.safetensors"):
        leftover.unlink()
    return kept_epochs(history) if any(generated) else "no generated image was kept: ERM's own network"


def kept_images(path: str, pruned: pd.DataFrame, class_names: tuple[str, ...]) -> list[LabelledImages | None]:
    """Of each class the images that were kept, None where there is none."""
    generated, _ = read_table(path, GENERATED)
    if generated["image_id"].to_list() != pruned["image_id"].to_list():
        raise ValueError(f"{path}: holds other images than were pruned")
    kept = generated[pruned["kept"].astype(bool)]
    parts = []
    for y in range(len(class_names)):
        own = kept.loc[kept["y"] == y, "image"]
        labels = torch.full((len(own),), y)
        pixels = [read_png(image) for image in own]
        parts.append(LabelledImages(pack(pixels), labels, torch.full_like(labels, -1)) if pixels else None)
    return parts


def retrain_network(
    network: torch.nn.Module,
    generated: list[LabelledImages | None],
    seed: int,
    inputs: dict,
    outputs: dict,
    cache: CacheFiles | None,
    settings: dict,
) -> pd.DataFrame:
    table, source = read_images(inputs["images"]), open_source(inputs["images"], cache)
    compute = Compute(choose_device(settings["device"]), **settings["compute"])
    files = [inputs[name] for name in ("checkpoint", "heads", "standardisation", "images", "generated", "pruned")]
    key = fingerprint(job.depends_on({**settings, "seed": seed}, [*files, *inputs["code"]], str(compute.device)))
    resume = Path(outputs["checkpoint"]).with_name(f".resume-{key}.safetensors")
    result = retrain(
        network,
        LabelledImages.of(table, source, "train"),
        generated,
        LabelledImages.of(table, source, "val"),
        **settings["retrain"],
        transform=settings["transform"],
        augmentation=settings["augmentation"],
        seed=seed,
        compute=compute,
        resume=resume,
    )
    return result.history


job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
kept = fit(
    dict(snakemake.input.items()),
    dict(snakemake.output.items()),
    int(snakemake.wildcards.seed),
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
    dict(snakemake.params.items()),
)
job.finish("DDB", kept)
