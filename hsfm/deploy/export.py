"""Export of a trained network with one method's head as a single file."""

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hsfm import __version__
from hsfm.core.files import require
from hsfm.heads.classifier import read_classifier
from hsfm.heads.head import Head
from hsfm.models.backbone import Checkpoint, Network, write_checkpoint


def export_model(
    path: str | Path,
    *,
    checkpoint: str | Path,
    heads: str | Path,
    seed: int | None = None,
    standardization: str | Path | None = None,
) -> None:
    """Merge a checkpoint and the head of one seed into one state dict, which the architecture's own model loads as is.

    The head lies where the architecture has its own (`fc.weight` in a ResNet), the metadata are the checkpoint's
    (backbone, classes, transform, ...) and the head's, and `read_checkpoint` reads the result. seed and
    standardization: as in `read_classifier`, and so are the errors.
    """
    model = read_classifier(checkpoint, heads, seed=seed, standardization=standardization)
    trained, saved = model.trained, model.saved
    require(trained.metadata, ["transform"], checkpoint)
    described = {name: getattr(saved, name) for name in ("method", "group_labels", "chosen_by", "checkpoint_sha256")}
    described |= {"seed": str(model.seed), "package_version": __version__}
    write_checkpoint(path, replace(trained, metadata=trained.metadata | described, early_logits=None))


def save_model(
    path: str | Path,
    network: Network,
    head: Head,
    *,
    name: str,
    class_names: Sequence[object],
    transform: Mapping[str, Any],
    method: str = "hsfm",
) -> None:
    """Write a network with `head` [c d] in place of its own as `export_model` does, without files of the workflow.

    name: what `build_network` was called with. transform: as the features were made. The network is left as it is.
    Raises RuntimeError where the head does not fit the network or the classes.
    """
    whole = copy.deepcopy(network).cpu()
    whole.fc = torch.nn.Linear(network.n_features, len(class_names))
    whole.fc.load_state_dict({"weight": head.weight, "bias": head.bias})
    metadata = {"transform": json.dumps(dict(transform)), "method": method, "seed": "0", "package_version": __version__}
    write_checkpoint(path, Checkpoint(whole, name, tuple(map(str, class_names)), metadata))
