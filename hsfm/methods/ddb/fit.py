"""DDB, diffusion driven balancing: a network retrained with generated images that ERM finds hard.

ICCV 2025, arXiv 2503.17226. The images that ERM finds easiest are the sources; in each the object is replaced by one
of another class, the background kept; what shows the object and is hard for ERM is kept; the whole network is retrained
on the original images and these.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch
from torch import nn

from hsfm.core.device import Compute
from hsfm.data.pixels import pack
from hsfm.methods.ddb.generated import read_png
from hsfm.models.backbone import Network
from hsfm.models.erm import AuxiliaryData, LabeledImages, train

SELECT_BY = {  # for readers
    "worst_group": "the epoch with the best validation worst group",
    "worst_class": "the epoch with the best validation worst class",
}
# of a seed for which nothing was kept that could be trained on
HISTORY_WITHOUT_IMAGES = pd.DataFrame(
    {
        name: pd.Series(dtype=kind)
        for name, kind in {
            "epoch": "int64",
            **dict.fromkeys(["train_loss", "val_average", "val_worst_group", "val_worst_class"], "float64"),
            "seed": "int64",
            "kept": "bool",
        }.items()
    }
)


def kept_images(
    generated: pd.DataFrame, pruned: pd.DataFrame, class_names: Sequence[str]
) -> list[LabeledImages | None]:
    """Of each class the generated images that were kept, None where there is none.

    Raises ValueError where the two tables, as `read_table` reads them, are not of the same images.
    """
    if generated["image_id"].to_list() != pruned["image_id"].to_list():
        raise ValueError("DDB: other images were generated than pruned")
    kept, parts = generated[pruned["kept"].astype(bool)], []
    for y in range(len(class_names)):
        pixels = [read_png(image) for image in kept.loc[kept["y"] == y, "image"]]
        labels = torch.full((len(pixels),), y)
        parts.append(LabeledImages(pack(pixels), labels, torch.full_like(labels, -1)) if pixels else None)
    return parts


def missing_images(generated: Sequence[LabeledImages | None], class_names: Sequence[str]) -> list[str]:
    """Remarks for readers on the classes of which no generated image was kept."""
    if not any(generated):
        return ["no generated image was kept, so that this is ERM's own network and head"]
    both = zip(class_names, generated, strict=True)
    return [f"no generated image of {name} was kept" for name, images in both if images is None]


def retrain(
    network: Network,
    training: LabeledImages,
    generated: Sequence[LabeledImages | None],
    validation: LabeledImages,
    *,
    weights: Sequence[float | int],
    lr: float,
    batch_size: int,
    epochs: int,
    select_by: str,
    transform: Mapping[str, Any],
    augmentation: Mapping[str, Any],
    seed: int,
    compute: Compute,
    resume: Any = None,
) -> pd.DataFrame:
    """Retrain ERM's `network` in place, all of it, from its own weights and a fresh head, by Adam.

    generated: the kept images of each class, None for a class without any. The loss of a step is the mean cross-entropy
    of a batch of training images, plus that of as many generated images of each class times the class's weight (the
    method's three-part loss, for any number of classes). The epoch with the best validation `select_by`, worst_group or
    worst_class, is kept, the higher average on a tie. seed: of the head and of everything drawn. resume: as in
    `hsfm.models.erm.train`. The history has its columns, seed and kept.

    Without any generated image the network stays as it is, and the history is empty: retrained on the old images alone
    it would be another ERM under DDB's name. Raises ValueError for another number of weights than classes, and as
    `hsfm.models.erm.train` does.
    """
    if select_by not in SELECT_BY:
        raise ValueError(f"select_by: {select_by!r} is unknown; allowed are {', '.join(SELECT_BY)}")
    if len(weights) != len(generated):
        raise ValueError(f"weights: {list(weights)} are {len(weights)} numbers, but there are {len(generated)} classes")
    if not any(generated):
        return HISTORY_WITHOUT_IMAGES
    refresh_head(network, seed)
    history = train(
        network,
        training,
        validation,
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
        schedule="constant",
        warmup=0.1,
        checkpoint=f"best_{select_by}",
        transform_settings=dict(transform),
        augment_settings=dict(augmentation),
        seed=seed,
        compute=compute,
        resume=resume,
        optimizer="adam",
        called="DDB",
        auxiliary=[
            AuxiliaryData(f"generated_{y}", images, float(weight))
            for y, (images, weight) in enumerate(zip(generated, weights, strict=True))
            if images is not None
        ],
    )
    order = history.sort_values([f"val_{select_by}", "val_average", "epoch"], ascending=[False, False, True])
    return history.assign(seed=seed, kept=history["epoch"] == order["epoch"].iloc[0])


def refresh_head(network: Network, seed: int) -> None:
    """Give a network a new head, as torch initializes it."""
    # torch's initializers draw from the global generator only; fork_rng hands it back as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = nn.Linear(network.fc.in_features, network.fc.out_features)
    network.fc.load_state_dict(fresh.state_dict())
