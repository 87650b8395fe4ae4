"""Make DaC's masks of the images of one split, by the heat maps of a network."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch

from hsfm.core import job
from hsfm.core.device import Compute, choose_device
from hsfm.core.progress import Progress
from hsfm.core.shards import Shard, cut, write_in_parts
from hsfm.data.open_images import open_source
from hsfm.data.pixels import Images, feed
from hsfm.data.store import CacheFiles
from hsfm.data.table import read_images
from hsfm.heads.classifier import read_classifier
from hsfm.methods.dac.masks import Masks, as_table, find_masks, pack

BATCHES = 8  # of a part; what a killed job loses at most


def make_masks(inputs: dict, output: str, split: str, shard: Shard, cache: CacheFiles | None, settings: dict) -> str:
    model = read_classifier(inputs["checkpoint"], inputs["heads"], standardisation=inputs["standardisation"])
    table = read_images(inputs["images"])
    rows = table.split(split)
    source = open_source(inputs["images"], cache)
    compute = Compute(choose_device(settings["device"]), **settings["compute"])
    transform, masking = settings["transform"], settings["masks"]
    about = {
        "dataset": table.dataset,
        "split": split,
        "source": "heat_map",
        "cuts": masking["cuts"],
        "checkpoint_sha256": model.checkpoint_sha256,
        "transform": transform,
    }
    parts = cut(rows, BATCHES * masking["batch_size"])
    share = shard.take(len(parts))
    n = sum(len(parts[number]) for number in share)
    bar = Progress(f"masking {split}", n, "image")

    def masks_of(part: pd.DataFrame) -> Masks:
        y = torch.tensor(part["y"].to_numpy(np.int64), device=compute.device)

        def batches() -> Iterator[tuple[Images, torch.Tensor]]:
            first = 0
            for images in feed(source(part), torch.arange(len(part)), masking["batch_size"], compute.device):
                yield images, y[first : first + len(images)]
                first += len(images)

        packed, loss, choice = [], [], []
        found = find_masks(
            model.trained.network,
            batches(),
            transform,
            cuts=masking["cuts"],
            fallback=masking["fallback"],
            compute=compute,
        )
        for kept, losses, choices in found:
            size = tuple(kept.shape[-2:])
            packed.append(pack(kept))
            loss.append(losses)
            choice += choices
            bar.update(len(kept))
        return Masks(
            image_id=tuple(part["image_id"]),
            packed=torch.cat(packed),
            size=size,
            cut=np.array([masking["cuts"][number] for number, _ in choice], np.float32),
            knee=np.array([knee for _, knee in choice]),
            loss=torch.cat(loss).numpy(),
            about=about,
        )

    files = [*(inputs[name] for name in ("checkpoint", "heads", "standardisation", "images")), *inputs["code"]]
    write_in_parts(
        output,
        share,
        lambda missing: (as_table(masks_of(parts[number])) for number in missing),
        depends_on=job.depends_on(settings, files, str(compute.device)),
    )
    bar.close()
    return f"{n:,} {split} images"


job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
made = make_masks(
    dict(snakemake.input.items()),
    snakemake.output.masks,
    snakemake.wildcards.split,
    Shard.named(snakemake.wildcards.get("shard")),
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
    dict(snakemake.params.items()),
)
job.finish("Masks", made)
