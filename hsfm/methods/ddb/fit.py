"""DDB, diffusion driven balancing: a network retrained with generated images that ERM finds hard.

ICCV 2025, arXiv 2503.17226. The images that ERM finds easiest are the sources; in each the object is replaced by one
of another class, the background kept; what shows the object and is hard for ERM is kept; the whole network is retrained
on the original images and these.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import pandas as pd
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from hsfm.core.device import Compute
from hsfm.core.settings import FrozenSettings
from hsfm.core.text import kept_epochs
from hsfm.data.pixels import pack
from hsfm.features.embeddings import Embeddings
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head, stack
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.scorer import Scorer
from hsfm.methods.ddb.cut_paste import CutPasteSettings
from hsfm.methods.ddb.diffusion_models import ModelsSettings
from hsfm.methods.ddb.generated import read_png
from hsfm.methods.ddb.inpaint import InpaintSettings
from hsfm.methods.ddb.prune import PruneSettings
from hsfm.methods.ddb.segment import SegmentSettings
from hsfm.methods.ddb.textual_inversion import TokenSettings
from hsfm.models.backbone import Network
from hsfm.models.erm import AdamSettings, AuxiliaryData, LabeledImages, TrainingData, train

NEEDED = {"diffusion": ("models", "token", "segment", "inpaint"), "cut_paste": ("cut_paste",)}  # by generator
_MEASURES = dict.fromkeys(("train_loss", "val_average", "val_worst_group", "val_worst_class"), 0.0)
HISTORY_WITHOUT_IMAGES = pd.DataFrame({"epoch": [0], **_MEASURES, "seed": 0, "kept": False})[:0]


class RetrainSettings(FrozenSettings):
    """The whole network from ERM's weights and a fresh head."""

    weights: tuple[NonNegativeFloat, ...] = Field(
        min_length=2,
        description="Of the loss on the generated images of each class, in their order; that on original images has 1.",
    )
    lr: PositiveFloat = Field(0.000005, description="Adam's learning rate.")
    batch_size: int = Field(32, ge=2, description="Images per step, training and generated ones in one order.")
    epochs: PositiveInt = Field(200, description="Passes over the training split and the generated images.")


class Settings(MethodSettings):
    """DDB's settings; the generator needs its own parts, and those of the other one may stand beside."""

    generator: Literal["diffusion", "cut_paste"] = Field(
        description="diffusion draws the new object by an inpainting model; cut_paste takes that of another image."
    )
    sources_per_class: PositiveInt = Field(300, description="Images of each class, of the lowest loss under ERM.")
    images_per_source: PositiveInt = Field(4, description="Images to make of each; the other classes take turns.")
    seed: NonNegativeInt = Field(0, description="Of what is generated.")
    cut_paste: CutPasteSettings | None = Field(None, description="For cut_paste alone.")
    models: ModelsSettings | None = Field(None, description="For diffusion alone.")
    token: TokenSettings | None = Field(None, description="A word learned for each class. For diffusion alone.")
    segment: SegmentSettings | None = Field(None, description="Finding the objects. For diffusion alone.")
    inpaint: InpaintSettings | None = Field(None, description="Drawing the new objects. For diffusion alone.")
    prune: PruneSettings = Field(PruneSettings(), description="Which generated images are kept.")
    retrain: RetrainSettings = Field(description="The whole network from ERM's weights and a fresh head.")

    @model_validator(mode="after")
    def _check_parts(self) -> "Settings":
        missing = [repr(key) for key in NEEDED[self.generator] if getattr(self, key) is None]
        if missing:
            raise ValueError(f"missing {', '.join(missing)}, which the generator {self.generator} needs")
        return self


@dataclass(frozen=True)
class DDBInputs:
    """Inputs of DDB beside embeddings."""

    network: Network  # ERM's, which stays as it is
    data: TrainingData  # of the dataset; what is generated comes beside it
    generated: Sequence[LabeledImages | None]  # the kept images of each class, None for a class without any
    compute: Compute
    resume: Path | None = None  # as in `hsfm.models.erm.train`; for a single seed


def fit(
    train: Embeddings, val: Embeddings, erm: Head,
    *, settings: Settings, seeds: Sequence[int], scorer: Scorer, inputs: DDBInputs,
) -> Fit:  # fmt: skip
    """ERM's network retrained beside generated images by each seed, and its heads.

    train and val stand for the classes; the images are those of `inputs`, and ERM's head is that of its network.
    History columns are those of `hsfm.models.erm.train` and seed. Without any generated image the network stays ERM's:
    retrained on the old images alone it would be another ERM under DDB's name. Raises ValueError where train or val is
    the test split, and as `hsfm.models.erm.train` does.
    """
    for part in (train, val):
        part.refuse_test("DDB")
    if any(inputs.generated):
        found = [retrain(inputs, settings.retrain, scorer, seed) for seed in seeds]
        networks, history = [network for network, _ in found], pd.concat([one for _, one in found], ignore_index=True)
        chosen_by, summary = f"the epoch with the best validation {scorer.in_words}", kept_epochs(history)
        both = zip(train.class_names, inputs.generated, strict=True)
        remark = "; ".join(f"no generated image of {name} was kept" for name, images in both if images is None)
    else:
        networks, history = [inputs.network] * len(seeds), HISTORY_WITHOUT_IMAGES
        chosen_by, summary = "ERM's own", "no generated image was kept: ERM's own network"
        remark = "no generated image was kept, so that this is ERM's own network and head"
    heads, tables = stack([Head.of(network.fc) for network in networks]), {"history": history}
    remarks = (remark,) * len(seeds)
    return Fit(heads, tuple(seeds), chosen_by, summary, remarks, tables=tables, networks=tuple(networks))


def kept_images(generated: pd.DataFrame, pruned: pd.DataFrame, n_classes: int) -> list[LabeledImages | None]:
    """Of each class the generated images that were kept, None where there is none; the two tables are row by row."""
    kept, parts = generated[pruned["kept"].astype(bool)], []
    for y in range(n_classes):
        pixels = [read_png(image) for image in kept.loc[kept["y"] == y, "image"]]
        labels = torch.full((len(pixels),), y)
        parts.append(LabeledImages(pack(pixels), labels, torch.full_like(labels, -1)) if pixels else None)
    return parts


def retrain(inputs: DDBInputs, settings: RetrainSettings, scorer: Scorer, seed: int) -> tuple[Network, pd.DataFrame]:
    """A copy of ERM's network, retrained from its weights and a fresh head by Adam, with its history.

    Training and generated images are shuffled together. The loss of a step is the mean cross-entropy of the training
    images in its batch, plus that of the generated images of each class times the class's weight (the method's
    three-part loss, for any number of classes); a part that has no image in a batch adds nothing. The head starts from
    Xavier's uniform weights and no bias, as the authors' does. The epoch that is best by the scorer's rule is kept, the
    higher average on a tie.
    """
    auxiliary = [
        AuxiliaryData(f"generated_{y}", images, float(weight))
        for y, (images, weight) in enumerate(zip(inputs.generated, settings.weights, strict=True))
        if images is not None
    ]
    network = copy.deepcopy(inputs.network)
    # torch's initializers draw from the global generator only; fork_rng hands it back as it was
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.nn.init.xavier_uniform_(network.fc.weight)
        torch.nn.init.zeros_(network.fc.bias)
    history = train(
        network,
        replace(inputs.data, auxiliary=auxiliary),
        AdamSettings(**settings.model_dump(exclude={"weights"}), checkpoint=scorer.rule),
        seed=seed,
        compute=inputs.compute,
        resume=inputs.resume,
        called="DDB",
    ).history
    # `train` has gone by the rule; the scorer learns that it was asked
    kept = history[history["kept"]].iloc[0]
    scorer.choose({name: torch.tensor(kept[name]) for name in history.columns if name.startswith("val_")})
    return network, history.assign(seed=seed)
