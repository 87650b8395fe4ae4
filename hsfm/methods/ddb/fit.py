"""DDB, diffusion driven balancing: a network retrained beside generated images of what ERM finds hard.

ICCV 2025, arXiv 2503.17226. The images that ERM finds easiest are the sources; in each the object is replaced by one
of another class, the background kept; what shows the object and is hard for ERM is kept; the whole network is retrained
on the original images and these.

Letters: n images, b of a batch, c classes.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from hsfm.core.device import Compute
from hsfm.data.pixels import Images
from hsfm.data.transforms import prepare, show_masks
from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head
from hsfm.methods.ddb.attribution import integrated_gradients, share_inside
from hsfm.models.backbone import Network
from hsfm.models.erm import Beside, LabelledImages, train

log = logging.getLogger(__name__)

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


def choose_sources(erm: Head, train: Embeddings, per_class: int) -> pd.DataFrame:
    """The training images of each class that have the lowest loss under ERM's head; all where there are fewer.

    Columns: image_id, y, loss, rank (from 1, within the class), in the order of classes and ranks.
    """
    train.refuse_test("DDB")
    loss = cross_entropy(erm.logits(train.features), train.y, reduction="none")
    rows = []
    for y in range(train.n_classes):
        own = (train.y == y).nonzero()[:, 0]
        chosen = own[loss[own].argsort(stable=True)][:per_class]
        if len(own) < per_class:
            log.warning("%s has %d training images, fewer than %d sources", train.class_names[y], len(own), per_class)
        for rank, row in enumerate(chosen.tolist(), start=1):
            rows.append({"image_id": train.image_id[row], "y": y, "loss": float(loss[row]), "rank": rank})
    return pd.DataFrame(rows)


# Pruning --------------------------------------------------------------------------------------------------------------


def class_confidence(erm: Head, train: Embeddings) -> Float[Tensor, " c"]:
    """The mean probability that ERM gives to each class, over the class's own training images."""
    train.refuse_test("DDB")
    own = erm.logits(train.features).softmax(-1).gather(1, train.y[:, None])[:, 0]
    return torch.stack([own[train.y == y].mean() for y in range(train.n_classes)])


@dataclass(frozen=True)
class Pairs:
    """Generated images and the sources they were made of, each pair and its mask of one size."""

    generated: Images
    sources: Images
    masks: Sequence[Any]  # bool [h w] each: where the new object is
    y: Int[Tensor, " b"]  # the class it is to show


@dataclass(frozen=True)
class Judged:
    attribution: Float[Tensor, " b"]  # share of integrated gradients on the object
    probability: Float[Tensor, " b"]  # of the class under ERM
    limit: Float[Tensor, " b"]  # that it has to stay below
    on_object: Bool[Tensor, " b"]  # the first rule
    hard: Bool[Tensor, " b"]  # the second

    @property
    def kept(self) -> Bool[Tensor, " b"]:
        return self.on_object & self.hard


def judge(
    network: Network,
    batches: Iterable[Pairs],
    confidence: Float[Tensor, " c"],
    transform: Mapping[str, Any],
    *,
    min_attribution: float | int,
    steps: int,
    compute: Compute,
) -> Iterator[Judged]:
    """By both rules: the object has to be seen, and the image has to be hard for ERM.

    network: ERM's, with its head. A generated image is kept where more than `min_attribution` of the attribution
    (integrated gradients of the new class's logit from the source image on, absolute values) lies on the new object,
    and where the class's probability is below `confidence`, the mean that ERM gives its own images. Source, image and
    mask go through the same transform, so that they lie on one another. steps: of the quadrature.
    """
    compute.prepare(network).eval()
    with compute.repeatable():
        for pairs in batches:
            y = pairs.y.to(compute.device)
            shown, baseline = (
                prepare(images.to(compute.device), transform) for images in (pairs.generated, pairs.sources)
            )
            mask = show_masks(pairs.masks, transform).to(compute.device)
            attribution = integrated_gradients(network, shown, baseline, y, steps=steps, compute=compute)
            with torch.inference_mode(), compute.autocast():
                logits = torch.cat([network(shown[part]) for part in compute.parts(len(shown), *shown.shape[-2:])])
            probability = logits.float().softmax(-1).gather(1, y[:, None])[:, 0].cpu()
            share = share_inside(attribution, mask).cpu()
            yield by_rules(share, probability, confidence[pairs.y], min_attribution)


def by_rules(
    attribution: Float[Tensor, " b"],
    probability: Float[Tensor, " b"],
    limit: Float[Tensor, " b"],
    min_attribution: float | int,
) -> Judged:
    """Which images the two rules keep."""
    return Judged(attribution, probability, limit, attribution > min_attribution, probability < limit)


def why_not(judged: Judged, min_attribution: float | int) -> list[str | None]:
    """For readers, what speaks against each image; None for those that are kept."""
    reasons = []
    for seen, hard in zip(judged.on_object.tolist(), judged.hard.tolist(), strict=True):
        against = [] if seen else [f"attribution on the object not above {min_attribution:g}"]
        against += [] if hard else ["ERM as sure as of the class's own images"]
        reasons.append(" and ".join(against) or None)
    return reasons


# Retraining -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    history: pd.DataFrame  # columns of `hsfm.models.erm.train`, and kept
    kept_epoch: int


def retrain(
    network: Network,
    training: LabelledImages,
    generated: Sequence[LabelledImages | None],
    validation: LabelledImages,
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
) -> Result:
    """Retrain ERM's `network` in place, all of it, from its own weights and a fresh head, by Adam.

    generated: the kept images of each class, None for a class without any. The loss of a step is the mean cross-entropy
    of a batch of training images, plus that of as many generated images of each class times the class's weight (the
    method's three-part loss, for any number of classes). The epoch with the best validation `select_by`, worst_group or
    worst_class, is kept, the higher average on a tie. seed: of the head and of everything drawn. resume: as in
    `hsfm.models.erm.train`.

    Raises ValueError for another number of weights than classes, where no class has generated images, and as
    `hsfm.models.erm.train` does.
    """
    if select_by not in SELECT_BY:
        raise ValueError(f"select_by: {select_by!r} is unknown; allowed are {', '.join(SELECT_BY)}")
    if len(weights) != len(generated):
        raise ValueError(f"weights: {list(weights)} are {len(weights)} numbers, but there are {len(generated)} classes")
    if not any(generated):
        raise ValueError("DDB: no generated image was kept, so that there is nothing to retrain on")
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
        optimiser="adam",
        called="DDB",
        beside=[
            Beside(f"generated_{y}", images, float(weight))
            for y, (images, weight) in enumerate(zip(generated, weights, strict=True))
            if images is not None
        ],
    )
    order = history.sort_values([f"val_{select_by}", "val_average", "epoch"], ascending=[False, False, True])
    kept_epoch = int(order["epoch"].iloc[0])
    return Result(history.assign(seed=seed, kept=history["epoch"] == kept_epoch), kept_epoch)


def refresh_head(network: Network, seed: int) -> None:
    """Give a network a new head, as torch initialises it."""
    # torch's initialisers draw from the global generator only; fork_rng hands it back as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = nn.Linear(network.fc.in_features, network.fc.out_features)
    network.fc.load_state_dict(fresh.state_dict())
