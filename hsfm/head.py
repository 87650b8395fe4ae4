"""Linear heads on features, and their file."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from hsfm.files import read_safetensors, require, write_safetensors

# Where validation group labels were used: nowhere, to select an epoch or a setting, or to train.
GROUP_LABELS = ("none", "selection", "training")


@dataclass(frozen=True)
class Head:
    """One linear head, or a stack of them along the leading axes."""

    weight: Float[Tensor, "*s c d"]
    bias: Float[Tensor, "*s c"]

    def logits(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "*s n c"]:
        # one product for the whole stack, where broadcasting would copy the features for each head
        flat = features @ self.weight.flatten(0, -2).mT
        return flat.unflatten(1, self.bias.shape).movedim(0, -2) + self.bias.unsqueeze(-2)

    def predict(self, features: Float[Tensor, "n d"]) -> Tensor:
        """Classes `[*s n]`; the lower class wins a tie."""
        return self.logits(features).argmax(dim=-1)

    def to(self, device: torch.device) -> "Head":
        return Head(self.weight.to(device), self.bias.to(device))

    def __getitem__(self, seed: int) -> "Head":
        return Head(self.weight[seed], self.bias[seed])


def stack(heads: Sequence[Head]) -> Head:
    """Single heads as one `[s c d]`."""
    return Head(torch.stack([h.weight for h in heads]), torch.stack([h.bias for h in heads]))


@runtime_checkable
class Described(Protocol):
    """What heads check before they are used: any features that say where they come from."""

    features: Tensor
    class_names: tuple[str, ...]
    checkpoint_sha256: str


@dataclass(frozen=True)
class SavedHeads:
    """The heads of one method on one checkpoint's features, with what a reader has to know about them."""

    head: Head  # weight [s c d], bias [s c]
    method: str
    seeds: tuple[int, ...]
    class_names: tuple[str, ...]
    checkpoint_sha256: str
    group_labels: str  # one of GROUP_LABELS

    def check_fits(self, embeddings: Described, source: str | Path) -> None:
        """Raise ValueError naming `source`, their file, unless the heads belong to these embeddings."""
        for what, mine, theirs in (
            ("features per image", self.head.weight.shape[-1], embeddings.features.shape[1]),
            ("classes", self.class_names, embeddings.class_names),
            ("checkpoint", self.checkpoint_sha256, embeddings.checkpoint_sha256),
        ):
            if mine != theirs:
                raise ValueError(f"{source}: {what} {theirs}, but the {self.method} heads are for {mine}")


def write_heads(path: str | Path, saved: SavedHeads) -> None:
    """Write heads. Raises ValueError for a NaN, or where tensors and description disagree."""
    weight, bias = saved.head.weight, saved.head.bias
    expected = (len(saved.seeds), len(saved.class_names))
    if weight.ndim != 3 or weight.shape[:2] != expected or bias.shape != expected:
        raise ValueError(
            f"{path}: weight {list(weight.shape)} and bias {list(bias.shape)} do not fit {expected[0]} seeds and "
            f"{expected[1]} classes"
        )
    if saved.group_labels not in GROUP_LABELS:
        raise ValueError(f"{path}: group_labels {saved.group_labels!r} is none of {', '.join(GROUP_LABELS)}")
    for seed, w, b in zip(saved.seeds, weight, bias, strict=True):
        if not (w.isfinite().all() and b.isfinite().all()):
            raise ValueError(f"{path}: the {saved.method} head of seed {seed} holds a NaN or an infinity")
    metadata = {
        "method": saved.method,
        "seeds": json.dumps(saved.seeds),
        "classes": json.dumps(saved.class_names),
        "checkpoint_sha256": saved.checkpoint_sha256,
        "group_labels": saved.group_labels,
    }
    write_safetensors(path, {"weight": weight, "bias": bias}, metadata)


def read_heads(path: str | Path) -> SavedHeads:
    """Read what `write_heads` wrote."""
    tensors, metadata = read_safetensors(path)
    require(metadata, ("method", "seeds", "classes", "checkpoint_sha256", "group_labels"), path)
    for name in ("weight", "bias"):
        if name not in tensors:
            raise ValueError(f"{path}: no tensor {name!r}; the tensors are {', '.join(sorted(tensors))}")
    return SavedHeads(
        head=Head(tensors["weight"], tensors["bias"]),
        method=metadata["method"],
        seeds=tuple(json.loads(metadata["seeds"])),
        class_names=tuple(json.loads(metadata["classes"])),
        checkpoint_sha256=metadata["checkpoint_sha256"],
        group_labels=metadata["group_labels"],
    )
