"""Draw what DaC makes of some training images of each group: heat map, mask, loss over the cuts, compositions."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hsfm.core import job
from hsfm.core.device import Compute
from hsfm.data.open_images import open_source
from hsfm.data.pixels import feed
from hsfm.data.store import CacheFiles
from hsfm.data.table import ImageTable, read_images
from hsfm.data.transforms import prepare
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.classifier import read_classifier
from hsfm.heads.head import read_heads
from hsfm.methods.dac.fit import compose, easy_rows
from hsfm.methods.dac.heat_maps import heat_maps
from hsfm.methods.dac.masks import Masks, read_masks, unpack
from hsfm.report import figures

SHOWN = 16  # images


def draw_masks(
    inputs: dict, outputs: list[str], dataset: str, cache: CacheFiles | None, transform: dict, settings: dict
) -> None:
    table, masks = read_images(inputs["images"]), read_masks(inputs["masks"], split="train")
    train = read_embeddings(inputs["train"], split="train")
    erm = read_heads(inputs["heads"]).head[0]
    easy = dict(zip(train.image_id, easy_rows(erm, train, settings["quantile"]).tolist(), strict=True))
    rows, groups = some_of_each_group(table.split("train"))
    masks.require_transform(transform)
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
    kept = ~kept if settings["invert"] else kept
    composed = compositions(shown, kept, torch.tensor(rows["y"].to_numpy(np.int64)))
    pictures = [
        {
            "name": name_of(table, row) + ("" if easy[row.image_id] else ", not selected"),
            "image": figures.thumbnail(as_picture(shown[i], transform)),
            "heat": figures.thumbnail(heat_map[i]),
            "mask": figures.thumbnail(kept[i].numpy()),
            **curve(masks, i),
            "composed": [figures.thumbnail(as_picture(one[i], transform)) for one in composed],
        }
        for i, row in enumerate(rows.itertuples())
    ]
    title = f"{dataset}: what DaC takes for the object, and compositions (of images of low loss alone)"
    if groups > rows.groupby(["y", "attribute"], dropna=False).ngroups:
        title += f" ({SHOWN} of {groups} groups)"
    figure = figures.draw_masks(pictures, masks.about["cuts"], title)
    for path in outputs:
        figures.save(figure, path)


def some_of_each_group(rows: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """The first one or two images of each class and attribute, or of `SHOWN` of these groups; and how many there are.

    The rows keep their numbers in the table.
    """
    grouped = rows.groupby([rows["y"], rows["attribute"].fillna(-1)], sort=True)
    some = grouped.head(2 if 2 * grouped.ngroups <= SHOWN else 1).sort_values(["y", "attribute"], kind="stable")
    # evenly spaced, so that there are several classes
    return some.iloc[np.unique(np.linspace(0, len(some) - 1, SHOWN).round().astype(int))], grouped.ngroups


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
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
    snakemake.params.transform,
    snakemake.params.shown,
)
job.finish("Figure", snakemake.output[0])
