"""Inputs of a method's fit, out of their files."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from hsfm.core.files import sha256
from hsfm.features.embeddings import Embeddings, read_embeddings
from hsfm.heads.head import Head, read_erm_features


@dataclass(frozen=True)
class FitInputs:
    train: Embeddings
    val: Embeddings
    erm: Head  # of the network that made the features
    checkpoint_sha256: str  # of that network
    needs: dict[str, Any]  # by the names in the module's NEEDS
    training: dict[str, Any] = field(default_factory=dict)  # settings of a network of the method's own
    remark: str = ""  # on that network, for the tables' notes


def read_fit_inputs(files: Mapping[str, str | Path], needs: Mapping[str, Any], run: int) -> FitInputs:
    """The inputs of a fit on ERM's features, or on those of the network in `checkpoint`.

    files: train, val, every need, and either heads (ERM's) or checkpoint; of train that network has seen a share, which
    is left out. needs: by name the settings that a need was made with. Raises ValueError naming a file of another
    network.
    """
    splits = {split: files[split] for split in ("train", "val")}
    training, remark = {}, ""
    if files.get("checkpoint"):
        from hsfm.models.backbone import read_checkpoint
        from hsfm.models.holdout import hold_out

        network = read_checkpoint(files["checkpoint"])
        train, val = (read_embeddings(file, split=split) for split, file in splits.items())
        erm, origin = Head.of(network.network.fc), sha256(files["checkpoint"])
        recipe = json.loads(network.metadata["settings"])["training"]
        training["holdout"] = recipe["holdout"]
        if not recipe.get("on_share"):
            remark = "its network is trained on a share of the images by ERM's recipe, not by one of its own"
        train = train.take(hold_out(train.y, training["holdout"], run))
    else:
        saved, (train, val) = read_erm_features(files["heads"], **splits)
        erm, origin = saved.head[0], saved.checkpoint_sha256
    found = {
        need: import_module(f"hsfm.heads.{need}").read_need(files[need], val, settings)
        for need, settings in needs.items()
    }
    return FitInputs(train, val, erm, origin, found, training, remark)
