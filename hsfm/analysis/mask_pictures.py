"""DaC at work on some training images: heat map, mask, loss over the cuts, compositions."""

from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from hsfm.core.device import Compute
from hsfm.data.pixels import ImageFiles, Images, image_batches
from hsfm.data.transforms import TransformSettings, prepare
from hsfm.methods.dac.fit import compose
from hsfm.methods.dac.heat_maps import heat_maps
from hsfm.methods.dac.masks import Masks, unpack
from hsfm.models.backbone import Network

SHOWN = 16  # images


def some_of_each_group(rows: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The first one or two images of each class and attribute, or of `SHOWN` of these groups; and a note if so.

    The rows keep their numbers in the table.
    """
    grouped = rows.groupby([rows["y"], rows["attribute"].fillna(-1)], sort=True)
    some = grouped.head(2 if 2 * grouped.ngroups <= SHOWN else 1).sort_values(["y", "attribute"], kind="stable")
    # evenly spaced, so that there are several classes
    some = some.iloc[np.unique(np.linspace(0, len(some) - 1, SHOWN).round().astype(int))]
    left_out = grouped.ngroups > some.groupby(["y", "attribute"], dropna=False).ngroups
    return some, f" ({SHOWN} of {grouped.ngroups} groups)" if left_out else ""


def mask_pictures(
    network: Network,
    pixels: Images | ImageFiles,
    y: Int[Tensor, " n"],
    masks: Masks,
    transform: TransformSettings,
    *,
    invert: bool,
) -> list[dict[str, Any]]:
    """A row per image, on the CPU: image, heat, mask, composed; loss, cut and knee, null of a mask without a heat map.

    masks: row by row. invert: keep what the masks leave out.
    """
    compute = Compute(torch.device("cpu"))
    compute.prepare(network).eval()
    batches = image_batches(pixels, torch.arange(len(y)), 1, compute.device)
    shown = torch.cat([prepare(batch, transform) for batch in batches])
    heat_map = torch.cat([heat_maps(network, one, compute) for one in shown.split(1)]).numpy()
    kept = unpack(masks.packed, masks.size) ^ invert
    composed = compositions(shown, kept, y)
    return [
        {
            "image": as_picture(shown[i], transform),
            "heat": heat_map[i],
            "mask": kept[i].numpy(),
            **(dict.fromkeys(("cut", "knee", "loss")) if masks.cuts is None else masks.cuts.iloc[i].to_dict()),
            "composed": [as_picture(one[i], transform) for one in composed],
        }
        for i in range(len(y))
    ]


def compositions(
    shown: Float[Tensor, "n 3 h w"], kept: Bool[Tensor, "n h w"], y: Int[Tensor, " n"]
) -> list[Float[Tensor, "n 3 h w"]]:
    """Each image with two of the partners that DaC may draw: the first and the last of another class."""
    others = [(y != label).nonzero()[:, 0] for label in y]
    mean = shown.mean((0, 2, 3))
    return [compose(shown, kept, torch.stack([rows[end] for rows in others]), mean)[1] for end in (0, -1)]


def as_picture(shown: Float[Tensor, "3 h w"], transform: TransformSettings) -> UInt8[np.ndarray, "h w 3"]:
    """The network's input as a picture."""
    mean, std = (torch.tensor(channels).view(3, 1, 1) for channels in (transform.mean, transform.std))
    return ((shown * std + mean).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
