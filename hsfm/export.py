"""One file for use elsewhere: a trained network with one method's head in place of its own."""

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from hsfm import __version__
from hsfm.backbone import Network, read_checkpoint, write_checkpoint
from hsfm.files import require, sha256
from hsfm.head import Head, SavedHeads, read_heads
from hsfm.standardise import Standardisation, read_standardisation


def export_model(
    path: str | Path,
    *,
    checkpoint: str | Path,
    heads: str | Path,
    seed: int | None = None,
    standardisation: str | Path | None = None,
) -> None:
    """Merge a checkpoint and the head of one seed into one state dict, which the architecture's own model loads as is.

    Takes paths, since its one job is to make one safetensors file of several. The head lies where the architecture has
    its own (`fc.weight` in a ResNet), the metadata are the checkpoint's (backbone, classes, transform, ...) and the
    head's, and `read_checkpoint` reads the result. seed: may be left out where `heads` holds one head only.
    standardisation: that of the features the heads were fitted on, folded into the exported one. Raises ValueError
    where heads or standardisation belong to another checkpoint, or for an unknown seed.
    """
    trained, saved = read_checkpoint(checkpoint), read_heads(heads)
    require(trained.metadata, ["transform"], checkpoint)
    fc, digest = trained.network.fc, sha256(checkpoint)
    # what the heads check is the origin of features; the weight [c d] of the head they replace has the features' d
    origin = SimpleNamespace(features=fc.weight, class_names=trained.class_names, checkpoint_sha256=digest)
    saved.check_fits(origin, checkpoint)
    position = _position(saved, seed, heads)
    head = saved.head[position]
    if standardisation is not None:
        head = Head(*_read_fitting(standardisation, digest, checkpoint).fold(head.weight, head.bias))
    fc.load_state_dict({"weight": head.weight, "bias": head.bias})
    described = {
        "method": saved.method,
        "seed": str(saved.seeds[position]),
        "group_labels": saved.group_labels,
        "chosen_by": saved.chosen_by,
        "checkpoint_sha256": digest,
        "package_version": __version__,
    }
    write_checkpoint(
        path,
        trained.network,
        name=trained.name,
        class_names=trained.class_names,
        metadata=trained.metadata | described,
    )


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
    Raises ValueError where the head does not fit the network or the classes.
    """
    expected = (len(class_names), network.n_features)
    if head.weight.shape != expected or head.bias.shape != expected[:1]:
        raise ValueError(
            f"head: weight {list(head.weight.shape)} and bias {list(head.bias.shape)} do not fit {expected[0]} classes "
            f"and {expected[1]} features"
        )
    whole = copy.deepcopy(network).cpu()
    whole.fc = torch.nn.Linear(expected[1], expected[0])
    whole.fc.load_state_dict({"weight": head.weight, "bias": head.bias})
    metadata = {"transform": json.dumps(dict(transform)), "method": method, "seed": "0", "package_version": __version__}
    write_checkpoint(path, whole, name=name, class_names=[str(c) for c in class_names], metadata=metadata)


def _read_fitting(path: str | Path, digest: str, checkpoint: str | Path) -> Standardisation:
    standardisation, metadata = read_standardisation(path)
    require(metadata, ["checkpoint_sha256"], path)
    if metadata["checkpoint_sha256"] != digest:
        raise ValueError(
            f"{path}: is for the features of checkpoint {metadata['checkpoint_sha256']}, but {checkpoint} is {digest}"
        )
    return standardisation


def _position(saved: SavedHeads, seed: int | None, source: str | Path) -> int:
    """Where the head of `seed` lies in the stack."""
    seeds = ", ".join(map(str, saved.seeds))
    if seed is None and len(saved.seeds) > 1:
        raise ValueError(f"{source}: holds several {saved.method} heads, name one by its seed: {seeds}")
    if seed is not None and seed not in saved.seeds:
        raise ValueError(f"{source}: no {saved.method} head of seed {seed}; the seeds are {seeds}")
    return 0 if seed is None else saved.seeds.index(seed)
