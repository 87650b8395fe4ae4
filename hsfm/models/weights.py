"""Torch files: external weights, from files or Python packages, and states of trainings that may be killed."""

import argparse
import importlib.util
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PosixPath
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hsfm.core.files import read_safetensors, write_atomically

log = logging.getLogger(__name__)

PACKAGE = "package:"

EARLY_LOGITS = "early_logits"  # in a checkpoint of hsfm beside the network's own tensors

_USUAL = ("state_dict", "model_state_dict", "model", "model_dict")  # of several networks one of these names is meant

# what lies beside weights in the checkpoints of the field, and runs nothing when it is read
_PLAIN = [
    argparse.Namespace,
    (PosixPath, "pathlib.PosixPath"),
    np.dtype,
    *(type(np.dtype(name)) for name in ("bool", "int32", "int64", "float32", "float64")),
    (np.float64(0).__reduce__()[0], "numpy._core.multiarray.scalar"),
    (np.float64(0).__reduce__()[0], "numpy.core.multiarray.scalar"),
]


def read_weights(source: str | Path, keys: Sequence[str]) -> dict[str, Tensor]:
    """The state dict in a file, or in an installed package named as `package:NAME`, in `keys`, those of a network.

    A package's one torch file has keys of its own; its tensors are taken in their order and get `keys`. Whether shapes
    fit is left to the network that loads them. Raises ValueError as `read_state` does, and where the package is not
    installed or the number or kinds of its tensors differ.
    """
    if not str(source).startswith(PACKAGE):
        return read_state(source, keys)
    path = _find_in_package(str(source).removeprefix(PACKAGE))
    state = max(_state_dicts(_load(path)).values(), key=len, default={})
    if len(state) != len(keys):
        raise ValueError(f"{source}: holds {len(state)} tensors, but the network has {len(keys)}")
    for theirs, ours in zip(state, keys, strict=True):
        # a layer's weight, bias and statistics often have one shape, so that shapes alone would not tell them apart
        if theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise ValueError(f"{source}: tensor {theirs!r} lies where the network has {ours!r}")
    return _finite(dict(zip(keys, state.values(), strict=True)), source)


def _find_in_package(name: str) -> Path:
    """The one torch file (.pth or .pt) of an installed package, which is not imported."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ValueError(f"{PACKAGE}{name}: no such package; pip install {name.replace('_', '-')}")
    folders = spec.submodule_search_locations or []
    files = [path for folder in folders for path in Path(folder).rglob("*.pt*") if path.suffix in (".pt", ".pth")]
    if len(files) != 1:
        raise ValueError(f"{PACKAGE}{name}: holds {len(files)} files of weights (.pt, .pth), expected 1")
    return files[0]


def read_state(path: str | Path, keys: Sequence[str]) -> dict[str, Tensor]:
    """The state dict of a network with these keys, in a safetensors file, by its suffix, or a torch file.

    It may lie anywhere in nested dicts (`state_dict`, `model`, ...), under any prefix (`module.`, `net.`, ...), which
    is taken off; the log names what else the file holds. Raises ValueError for a file that is missing, not whole, holds
    Python objects (no code of it is run), no tensor of the network, or two networks of which none has one of the usual
    names; and for tensors that are not finite. Early logits of hsfm's own checkpoints are left out.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    content = read_safetensors(path)[0] if Path(path).suffix.lower() == ".safetensors" else _load(path)
    states, wanted = _state_dicts(content), set(keys)
    found = Counter(
        (place, key[:start])
        for place, state in states.items()
        for key in state
        for start in (0, *(dot.end() for dot in re.finditer(r"\.", key)))
        if key[start:] in wanted
    )
    if not found:
        held = shorten(", ".join(key for state in states.values() for key in state) or "no tensor by name", 150)
        raise ValueError(f"{path}: holds {held}; none belongs to this network, which has {', '.join(keys[:2])}, ...")
    most = max(found.values())
    best = [(place, prefix) for (place, prefix), count in found.items() if count == most]
    usual = [(place, prefix) for place, prefix in best if (*place, prefix.partition(".")[0])[0] in _USUAL]
    place, prefix = chosen = (usual or best)[0]
    state = _bare(states[place], prefix)
    # DomainBed keeps one network under two prefixes
    rivals = [each for each in best if each != chosen and not _same(_bare(states[each[0]], each[1]), state)]
    if rivals and len(usual) != 1:
        names = ", ".join(repr(".".join((*map(str, place), prefix))) for place, prefix in best)
        raise ValueError(f"{path}: holds several networks of these keys, under {names}; save the one you mean alone")
    if left := _beside(content, place, prefix):
        log.log(logging.WARNING if rivals else logging.INFO, "%s: left out %s", path, shorten(", ".join(left), 300))
    state.pop(EARLY_LOGITS, None)
    return _finite(state, path)


def _state_dicts(content: Any, place: tuple = ()) -> dict[tuple, dict[str, Tensor]]:
    """The tensors of each dict among nested ones, by the keys that lead to it."""
    if not isinstance(content, Mapping):
        return {}
    own = {key: value for key, value in content.items() if isinstance(key, str) and isinstance(value, Tensor)}
    deeper = [_state_dicts(value, (*place, key)) for key, value in content.items()]
    return {place: own} | {name: state for states in deeper for name, state in states.items()}


def _bare(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def _beside(content: Mapping, place: tuple, prefix: str) -> list[str]:
    """Names of what lies beside the tensors with a prefix at a place among nested dicts."""
    left = []
    for key in place:
        left += [str(other) for other in content if other != key]
        content = content[key]
    return left + [str(k) for k, v in content.items() if not (isinstance(v, Tensor) and str(k).startswith(prefix))]


def _finite(state: dict[str, Tensor], source: str | Path) -> dict[str, Tensor]:
    for key, tensor in state.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{source}: tensor {key!r} holds a NaN or an infinity")
    return state


def _load(path: str | Path) -> Any:
    """Read a torch file of tensors, containers, numbers, texts, and settings as trainings leave them."""
    try:
        with torch.serialization.safe_globals(_PLAIN):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:  # such as no permission
        raise
    except Exception as error:  # a broken file fails torch's parser in any way: UnpicklingError, KeyError, ...
        kind = re.search(r"GLOBAL (\S+)", str(error))
        objects = f"Python objects{f' ({kind[1]})' if kind else ''}"
        raise ValueError(
            f"{path}: is not loaded, since it is truncated, foreign, or holds {objects}, which can run any code. Where "
            "you trust it, read it by torch.load(path, weights_only=False), and save its state dict alone by "
            "torch.save, or as .safetensors"
        ) from error


def write_resume(path: str | Path, state: dict[str, Any]) -> None:
    """Write a training's state: tensors, numbers, texts, and containers of these."""
    with write_atomically(path) as temporary:
        torch.save(state, temporary)


def read_resume(path: str | Path) -> dict[str, Any] | None:
    """Read what `write_resume` wrote, on the CPU; None where there is no file, or with a warning one not to be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # a broken file fails torch's parser in any way
        log.warning("%s cannot be read (%s); the work begins anew", path, type(error).__name__)
        return None
