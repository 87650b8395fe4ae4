"""Linear heads on features, and their file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hsfm.core.files import read_safetensors, require, write_safetensors
from hsfm.features.embeddings import Embeddings, read_embeddings

_TEXTS = ("method", "checkpoint_sha256", "group_labels", "chosen_by", "left_out")
_LISTS = {"seeds": "seeds", "classes": "class_names", "settings": "settings", "remarks": "remarks"}  # in file: field


@dataclass(frozen=True)
class Head:
    """One linear head, or a stack of them along the leading axes."""

    weight: Float[Tensor, "*s c d"]
    bias: Float[Tensor, "*s c"]

    @staticmethod
    def of(layer: nn.Linear) -> "Head":
        """The head that is the last layer of a network."""
        return Head(layer.weight.detach(), layer.bias.detach())

    def logits(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "*s n c"]:
        # one product for the whole stack, where broadcasting would copy the features for each head
        flat = features @ self.weight.flatten(0, -2).mT
        return flat.unflatten(1, self.bias.shape).movedim(0, -2) + self.bias.unsqueeze(-2)

    def predict(self, features: Float[Tensor, "n d"]) -> Tensor:
        """Classes `[*s n]`; the lower class wins a tie."""
        return self.logits(features).argmax(dim=-1)

    def to(self, device: torch.device) -> "Head":
        return Head(self.weight.to(device), self.bias.to(device))

    def __getitem__(self, seed: int | slice) -> "Head":
        return Head(self.weight[seed], self.bias[seed])


def stack(heads: Sequence[Head]) -> Head:
    return Head(torch.stack([h.weight for h in heads]), torch.stack([h.bias for h in heads]))


def two_rows(
    weight: Float[np.ndarray, "_ d"], bias: Float[np.ndarray, " _"]
) -> tuple[Float[np.ndarray, "c d"], Float[np.ndarray, " c"]]:
    """One row per class: the softmax of -w/2 and +w/2 is the sigmoid of a single row w; several rows stay."""
    if len(weight) > 1:
        return weight, bias
    return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2


@dataclass(frozen=True)
class SavedHeads:
    """The heads of one method on one checkpoint's features, and their description."""

    head: Head  # weight [s c d], bias [s c]
    method: str
    seeds: tuple[int, ...]
    class_names: tuple[str, ...]
    checkpoint_sha256: str
    group_labels: str  # use of them, as `hsfm.heads.supervision.labels_used` has it
    chosen_by: str  # rule that picked the epoch or the strength of a penalty, in words
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the method
    remarks: tuple[str, ...] = ()  # caveats about each seed's head; empty, or one text per seed
    left_out: str = ""  # why there is no head: what of the data the method lacks
    # of the n images of validation the classes that heads predict which were chosen as these, and taught without the
    # image (HSFM's and its control's were chosen without it, too); k times, -1 where there is none
    held_out: Int[Tensor, "k n"] | None = None

    def check_fits(self, embeddings: Any, source: str | Path) -> None:
        """Raise ValueError naming `source`, their file, unless the heads belong to these embeddings."""
        for what, mine, theirs in (
            ("features per image", self.head.weight.shape[-1], embeddings.features.shape[1]),
            ("classes", self.class_names, embeddings.class_names),
            ("checkpoint", self.checkpoint_sha256, embeddings.checkpoint_sha256),
        ):
            if mine != theirs:
                raise ValueError(f"{source}: {what} {theirs}, but the {self.method} heads are for {mine}")


def gather(parts: Sequence[SavedHeads]) -> SavedHeads:
    """The heads of several files of one method as one; on features of their own they name all their checkpoints."""
    remarks = [remark for part in parts for remark in part.remarks or [""] * len(part.seeds)]
    return replace(
        parts[0],
        head=Head(torch.cat([part.head.weight for part in parts]), torch.cat([part.head.bias for part in parts])),
        seeds=tuple(seed for part in parts for seed in part.seeds),
        checkpoint_sha256=", ".join(dict.fromkeys(part.checkpoint_sha256 for part in parts)),
        remarks=tuple(remarks) if any(remarks) else (),
    )


def write_heads(path: str | Path, saved: SavedHeads) -> None:
    """Write heads: tensors `weight` and `bias`, and `held_out` where there is one, everything else as metadata.

    Raises ValueError naming `path` for a NaN, or where the shapes are not those of the seeds and classes.
    """
    weight, bias = saved.head.weight, saved.head.bias
    s, c = len(saved.seeds), len(saved.class_names)
    if weight.shape[:-1] != (s, c) or bias.shape != (s, c):
        found = f"weight {list(weight.shape)} and bias {list(bias.shape)}"
        raise ValueError(f"{path}: {found} do not fit {s} seeds and {c} classes")
    for seed, w, b in zip(saved.seeds, weight, bias, strict=True):
        if not (w.isfinite().all() and b.isfinite().all()):
            raise ValueError(f"{path}: the {saved.method} head of seed {seed} holds a NaN or an infinity")
    metadata = {key: getattr(saved, key) for key in _TEXTS}
    metadata |= {key: json.dumps(getattr(saved, name)) for key, name in _LISTS.items()}
    tensors = {"weight": weight, "bias": bias, "held_out": saved.held_out}
    write_safetensors(path, {name: tensor for name, tensor in tensors.items() if tensor is not None}, metadata)


def read_heads(path: str | Path) -> SavedHeads:
    tensors, metadata = read_safetensors(path)
    require(metadata, (*_TEXTS, *_LISTS), path)
    fields = {name: json.loads(metadata[key]) for key, name in _LISTS.items()}
    return SavedHeads(
        head=Head(tensors["weight"], tensors["bias"]),
        held_out=tensors.get("held_out"),
        **{key: metadata[key] for key in _TEXTS},
        **{name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()},
    )


def read_erm_features(heads: str | Path, **splits: str | Path) -> tuple[SavedHeads, list[Embeddings]]:
    """ERM's head, and the embeddings of some splits by their files; ValueError naming one of another network."""
    erm = read_heads(heads)
    read = [read_embeddings(path, split=split) for split, path in splits.items()]
    for embeddings, path in zip(read, splits.values(), strict=True):
        erm.check_fits(embeddings, path)
    return erm, read
