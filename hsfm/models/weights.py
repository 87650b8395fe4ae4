"""Torch files: external weights, from files or Python packages, and states of trainings that may be killed."""

import importlib.util
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor

from hsfm.core.files import read_safetensors, write_atomically

log = logging.getLogger(__name__)

PACKAGE = "package:"

EARLY_LOGITS = "early_logits"  # in a checkpoint of hsfm beside the network's own tensors

_WRAPPERS = ("model_state_dict", "state_dict")
_PREFIXES = ("module.", "model.", "_orig_mod.")  # of DataParallel, of Lightning and the like, of torch.compile


def read_weights(source: str | Path, keys: Sequence[str]) -> dict[str, Tensor]:
    """The state dict in a file, or in an installed package named as `package:NAME`.

    A package's one torch file has keys of its own; its tensors are taken in their order and get `keys`, those of the
    architecture in its order. Whether shapes fit is left to the network that loads them. Raises ValueError as
    `read_state` does, and where the package is not installed or the number or kinds of its tensors differ.
    """
    if not str(source).startswith(PACKAGE):
        return read_state(source)
    state = read_state(_find_in_package(str(source).removeprefix(PACKAGE)))
    if len(state) != len(keys):
        raise ValueError(f"{source}: holds {len(state)} tensors, but the network has {len(keys)}")
    for theirs, ours in zip(state, keys, strict=True):
        # a layer's weight, bias and statistics often have one shape, so that shapes alone would not tell them apart
        if theirs.rpartition(".")[2] != ours.rpartition(".")[2]:
            raise ValueError(f"{source}: tensor {theirs!r} lies where the network has {ours!r}")
    return dict(zip(keys, state.values(), strict=True))


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


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The state dict in a safetensors file, by its suffix, or in what torch.save wrote, on the CPU in bare keys.

    A torch file holds the state dict itself, or a dict with one under `model_state_dict` or `state_dict`. Prefixes like
    `module.` that all keys share are taken off. Raises ValueError for a file that is missing, not whole, holds Python
    objects (it is never unpickled) or anything but finite tensors. Early logits of hsfm's own checkpoints are left out.
    """
    if not Path(path).is_file():
        raise ValueError(f"{path}: no such file")
    state = read_safetensors(path)[0] if Path(path).suffix.lower() == ".safetensors" else _load(path)
    state.pop(EARLY_LOGITS, None)
    while prefix := next((p for p in _PREFIXES if all(key.startswith(p) for key in state)), None):
        state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    for key, tensor in state.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path}: tensor {key!r} holds a NaN or an infinity")
    return state


def _load(path: str | Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:  # such as no permission
        raise
    except Exception as error:  # a broken file fails torch's parser in any way: UnpicklingError, KeyError, ...
        raise ValueError(
            f"{path}: is not loaded, since it is truncated, foreign, or holds Python objects, which can run any code. "
            "Save the weights alone by torch.save(model.state_dict(), path), or as .safetensors"
        ) from error
    if isinstance(content, Mapping):
        content = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), content)
        others = {key: type(value).__name__ for key, value in content.items() if not isinstance(value, Tensor)}
    else:
        others = type(content).__name__
    if others or not content:
        found = shorten(f"holds {others or 'nothing'}", 200)
        raise ValueError(f"{path}: {found}, expected a state dict, or a dict with one under {' or '.join(_WRAPPERS)}")
    return dict(content)


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
