"""Draw what DaC makes of some training images of each group: heat map, mask, loss over the cuts, compositions."""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hsfm import figures, job
from hsfm.augment import prepare
from hsfm.baselines.dac import compose
from hsfm.classifier import read_classifier
from hsfm.device import Compute
from hsfm.heat_maps import heat_maps
from hsfm.images import ImageTable, read_images
from hsfm.masks import Masks, read_masks, unpack
from hsfm.pixel_cache import CacheFiles
from hsfm.pixels import feed
from hsfm.source import open_source

SHOWN = 2  # images of a group


def draw_masks(
    inputs: dict, outputs: list[str], dataset: str, cache: CacheFiles | None, transform: dict, invert: bool
) -> None:
    table, masks = read_images(inputs["images"]), read_masks(inputs["masks"], split="train")
    rows = some_of_each_group(table.split("train"))
    masks = masks.of(tuple(rows["image_id"]))
    network = read_classifier(
        inputs["checkpoint"], inputs["heads"], standardisation=inputs["standardisation"]
    ).trained.network
    compute = Compute(torch.device("cpu"))
    compute.prepare(network).eval()
    pixels = open_source(inputs["images"], cache)(rows)
    shown = torch.cat([prepare(batch, transform) for batch in feed(pixels, torch.arange(len(rows)), 1, compute.device)])
    with heat_maps(network, shown[:1], compute) as heat:
        heat_map = torch.cat([heat(one) for one in shown.split(1)]).numpy()
    kept = unpack(masks.packed, masks.size)
    kept = ~kept if invert else kept
    composed = compositions(shown, kept, torch.tensor(rows["y"].to_numpy(np.int64)))
    pictures = [
        {
            "name": name_of(table, row),
            "image": as_picture(shown[i], transform),
            "heat": heat_map[i],
            "mask": kept[i].numpy(),
            **curve(masks, i),
            "composed": [as_picture(one[i], transform) for one in composed],
        }
        for i, row in enumerate(rows.itertuples())
    ]
    title = f"{dataset}: what DaC takes for the object, and composes"
    figure = figures.draw_masks(pictures, masks.about["cuts"], title)
    for path in outputs:
        figures.save(figure, path)


def some_of_each_group(rows: pd.DataFrame) -> pd.DataFrame:
    """The first images of each class and attribute, where known; their rows keep their numbers in the table."""
    return rows.groupby([rows["y"], rows["attribute"].fillna(-1)], sort=True).head(SHOWN).sort_values(
        ["y", "attribute"], kind="stable"
    )  # fmt: skip


def compositions(shown: Tensor, kept: Tensor, y: Tensor) -> list[Tensor]:
    """Each image with two of the partners that DaC may draw: the first and the last of another class."""
    others = [(y != label).nonzero()[:, 0] for label in y]
    mean = shown.mean((0, 2, 3))
    return [compose(shown, kept, torch.stack([rows[end] for rows in others]), mean)[1] for end in (0, -1)]


def curve(masks: Masks, row: int) -> dict:
    """The loss at each cut and the chosen one, where the mask was cut out of a heat map."""
    if masks.cut is None:
        return {"loss": None, "cut": None, "knee": None}
    return {"loss": masks.loss[row], "cut": float(masks.cut[row]), "knee": bool(masks.knee[row])}


def as_picture(shown: Tensor, transform: dict) -> np.ndarray:
    """What the network sees, as uint8 [h w 3]."""
    mean, std = (torch.tensor(transform[key]).view(3, 1, 1) for key in ("mean", "std"))
    return ((shown * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def name_of(table: ImageTable, row: object) -> str:
    attribute = "unknown" if pd.isna(row.attribute) else table.attribute_names[row.attribute]
    return f"{table.class_names[row.y]}, {attribute}"


job.start(snakemake.log[0])
draw_masks(
    dict(snakemake.input.items()),
    list(snakemake.output),
    snakemake.wildcards.dataset,
    CacheFiles(*map(Path, snakemake.input.cache), snakemake.params.decode_size) if snakemake.input.cache else None,
    snakemake.params.transform,
    snakemake.params.invert,
)
