"""Load diffusion and segmentation models by name or from a folder, and record their version.

Needs the extra `[diffusion]`. Weights are read from safetensors alone, never unpickled.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hsfm.core.device import Compute
from hsfm.core.files import fingerprint, sha256

try:
    import diffusers
    import transformers
    from huggingface_hub import snapshot_download
except ImportError as error:
    raise ImportError(
        f'diffusion models need the extra [diffusion]: pip install -e ".[diffusion]" ({error})'
    ) from error

log = logging.getLogger(__name__)

LIBRARIES = [diffusers.__version__, transformers.__version__]  # what is made depends on them
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
# of a model of transformers; beside them lie copies in forms that are never read here
_FILES = ["*.json", "*.txt", "model*.safetensors"]


@dataclass(frozen=True)
class Model:
    """A model's files on this machine."""

    folder: Path
    origin: dict[str, str]  # name, and commit: of the hub, or a hash of a local folder's weights


def find_model(name: str, *, revision: str | None = None, local_files_only: bool = False, pipeline: bool) -> Model:
    """The files of a model: of a local folder, or of the hub, from where what is missing is downloaded.

    revision: branch, tag or commit on the hub. local_files_only: take what was downloaded before, or raise. pipeline:
    whether it is one of diffusers, which downloads only those files that its parts need. Raises ValueError that names
    the model where it cannot be had.
    """
    if Path(name).is_dir():
        if revision is not None:
            raise ValueError(f"model {name}: is a folder, which has no revision ({revision!r}); set revision to null")
        return Model(Path(name), {"name": name, "commit": _commit(Path(name).resolve()) or _hash(Path(name))})
    wanted = name if revision is None else f"{name}, revision {revision}"
    try:
        folder = _download(name, revision, local_files_only, pipeline)
    except Exception as error:  # of whichever client the hub's library uses: no network, time-outs, no such model
        cause = _first_line(error.__cause__ or error)
        if not local_files_only:
            try:
                folder = _download(name, revision, True, pipeline)
            except Exception:
                raise _not_found(wanted, name, "on the hub", cause) from error
            log.warning("model %s: the hub cannot be asked (%s); taking what was downloaded before", wanted, cause)
        else:
            where = "among what was downloaded before (local_files_only)"
            raise _not_found(wanted, name, where, cause) from error
    return Model(Path(folder), {"name": name, "commit": _commit(Path(folder)) or _hash(Path(folder))})


def _download(name: str, revision: str | None, local_files_only: bool, pipeline: bool) -> str:
    """The folder of a model in the hub's cache, filled up unless local_files_only."""
    if pipeline:  # of the many files beside a pipeline, those that its parts need
        return diffusers.DiffusionPipeline.download(
            name, revision=revision, use_safetensors=True, local_files_only=local_files_only
        )
    return snapshot_download(name, revision=revision, local_files_only=local_files_only, allow_patterns=_FILES)


def _not_found(wanted: str, name: str, where: str, cause: str) -> ValueError:
    return ValueError(
        f"model {wanted}: neither a folder nor found {where} ({cause}); run once on a machine with a network, or name "
        "a folder that holds the model"
    )


def _commit(folder: Path) -> str | None:
    """Which commit a folder of the hub's cache is of."""
    cached = folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name)
    return folder.name if cached else None


def _hash(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors", ".txt"))
    return "folder " + fingerprint({str(path.relative_to(folder)): sha256(path) for path in files})


def choose_dtype(precision: str, compute: Compute) -> torch.dtype:
    """The dtype of a diffusion model. auto: as `compute` does, bfloat16 or float16 on CUDA, float32 on the CPU.

    Raises ValueError for an unknown precision, and for float16 on the CPU, where half of its operations are missing.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: {precision!r} is unknown; allowed are {', '.join(PRECISIONS)}")
    if precision == "float16" and compute.on_cpu:
        raise ValueError("precision: float16 was asked for, which the CPU has not; auto takes float32 there")
    return compute.dtype if precision == "auto" else getattr(torch, precision)


def load_pipeline(kind: type, model: Model, dtype: torch.dtype) -> Any:
    """A pipeline of diffusers, of the class `kind`, on the CPU. Raises ValueError naming the folder of one that is not.

    A safety checker is left out: it would replace pictures by black ones.
    """
    quiet()
    try:
        pipeline = kind.from_pretrained(
            model.folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError, TypeError) as error:
        raise _not_loaded(model, kind, error) from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_part(kind: type, model: Model, **settings: Any) -> Any:
    """A model or a processor of transformers. Raises ValueError naming the folder of one that it is not."""
    quiet()
    try:
        return kind.from_pretrained(model.folder, local_files_only=True, **settings)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise _not_loaded(model, kind, error) from error


def _not_loaded(model: Model, kind: type, error: Exception) -> ValueError:
    return ValueError(f"model {model.origin['name']}: cannot be loaded as {kind.__name__} ({_first_line(error)})")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_pipeline(kind: type, settings: Mapping[str, Any], name: str, compute: Compute) -> tuple[Any, dict[str, str]]:
    """A pipeline as `load_pipeline` gives it, and its origin.

    settings: a model's name and revision under `name`; precision, local_files_only.
    """
    model = find_model(**settings[name], local_files_only=settings["local_files_only"], pipeline=True)
    return load_pipeline(kind, model, choose_dtype(settings["precision"], compute)), model.origin


def to_device(pipeline: Any, compute: Compute, memory: Mapping[str, bool]) -> None:
    """Bring a pipeline to where it computes. memory: attention_slicing, cpu_offload (slower, for small GPUs)."""
    if memory["attention_slicing"]:
        pipeline.enable_attention_slicing()
    if memory["cpu_offload"] and not compute.on_cpu:  # on the CPU it lies there anyway
        pipeline.enable_model_cpu_offload(device=compute.device)
    else:
        pipeline.to(compute.device)


def quiet() -> None:
    """Neither bars nor hints of the libraries, whose place is not in a stage's log; errors are raised."""
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
