"""Load diffusion and segmentation models by name or from a folder, and record their version.

Needs the extra `[diffusion]`. Weights are read from safetensors alone, never unpickled.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import torch
from pydantic import Field

from hsfm.core.device import Compute
from hsfm.core.files import fingerprint, sha256
from hsfm.core.settings import FrozenSettings

# of a model of transformers; beside them lie copies in forms that are never read here
_FILES = ["*.json", "*.txt", "model*.safetensors"]

Side = Annotated[int, Field(ge=8, multiple_of=8)]
PictureSize = tuple[Side, Side]  # height and width in pixels


class ModelSettings(FrozenSettings):
    """A model on the Hugging Face hub, or a folder that holds one."""

    name: str = Field(min_length=1, description="Its name on the hub, which downloads it once, or a local folder.")
    revision: Annotated[str, Field(min_length=1)] | None = Field(
        None, description="Branch, tag or commit on the hub; null for the newest."
    )


class LoadingSettings(FrozenSettings):
    """Sources and precision of models."""

    local_files_only: bool = Field(False, description="Download nothing; what is missing is an error.")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Of the diffusion models; auto is that of compute/precision, float32 on the CPU."
    )
    attention_slicing: bool = Field(False, description="Attention in parts: less memory, slower.")
    cpu_offload: bool = Field(False, description="Parts wait in the CPU's memory: less GPU memory, slower.")

    @staticmethod
    def among(settings: Mapping[str, Any]) -> "LoadingSettings":
        """Those that stand among others."""
        return LoadingSettings(**{name: settings[name] for name in LoadingSettings.model_fields})


class ModelsSettings(LoadingSettings):
    """The models that DDB generates images by."""

    text_to_image: ModelSettings = Field(description="Stable Diffusion, on which words are learned.")
    inpainting: ModelSettings = Field(description="Its form for inpainting, with the same text encoder.")
    detector: ModelSettings = Field(description="GroundingDINO, which finds objects by a text.")
    segmenter: ModelSettings = Field(description="SAM, which masks them.")


def libraries() -> tuple[ModuleType, ModuleType]:
    """diffusers and transformers, without their bars and hints. Raises ImportError naming the extra they come with."""
    try:
        import diffusers
        import transformers
    except ImportError as error:
        raise ImportError(f'diffusion needs the extra: pip install -e ".[diffusion]" ({error})') from error
    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    return diffusers, transformers


def library_versions() -> list[str]:
    """Versions of the libraries, on which the results depend."""
    return [library.__version__ for library in libraries()]


@dataclass(frozen=True)
class Model:
    """A model's files on this machine."""

    folder: Path
    origin: dict[str, str]  # name, and commit: of the hub, or a hash of a local folder's weights


def find_model(name: str, *, revision: str | None = None, local_files_only: bool = False, pipeline: bool) -> Model:
    """The files of a model: of a local folder, or of the hub, from where what is missing is downloaded.

    revision, local_files_only: as in `ModelSettings` and `LoadingSettings`. pipeline: whether it is one of diffusers.
    Raises ValueError that names the model where it cannot be had.
    """
    if Path(name).is_dir():
        if revision is not None:
            raise ValueError(f"model {name}: is a folder, which has no revision ({revision!r}); set revision to null")
        folder = Path(name).resolve()
    else:
        folder = Path(_download(name, revision, local_files_only, pipeline))
    if folder.parent.name == "snapshots" and re.fullmatch("[0-9a-f]{40}", folder.name):  # the hub's cache
        return Model(folder, {"name": name, "commit": folder.name})
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".json", ".safetensors", ".txt"))
    hashed = fingerprint({str(path.relative_to(folder)): sha256(path) for path in files})
    return Model(folder, {"name": name, "commit": f"folder {hashed}"})


def _download(name: str, revision: str | None, local_files_only: bool, pipeline: bool) -> str:
    """The folder of a model in the hub's cache, filled up unless local_files_only."""
    diffusers, _ = libraries()
    from huggingface_hub import snapshot_download

    how = {"revision": revision, "local_files_only": local_files_only}
    try:
        if pipeline:  # of the many files beside a pipeline, those that its parts need
            return diffusers.DiffusionPipeline.download(name, use_safetensors=True, **how)
        return snapshot_download(name, allow_patterns=_FILES, **how)
    except Exception as error:  # of whichever client the hub's library uses: no network, time-outs, no such model
        wanted, cause = name if revision is None else f"{name}, revision {revision}", error.__cause__ or error
        where = "among what was downloaded before (local_files_only)" if local_files_only else "on the hub"
        found = f"neither a folder nor found {where} ({_first_line(cause)})"
        raise ValueError(f"model {wanted}: {found}; run once on a machine with a network, or name a folder") from error


def load_pipeline(kind: type, model: Model, dtype: torch.dtype) -> Any:
    """A pipeline of diffusers, of the class `kind`, on the CPU; errors as in `load_part`."""
    unchecked = {"safety_checker": None, "requires_safety_checker": False}  # it would replace pictures by black ones
    pipeline = load_part(kind, model, dtype=dtype, use_safetensors=True, **unchecked)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def load_part(kind: type, model: Model, **settings: Any) -> Any:
    """A model or a processor of transformers. Raises ValueError naming the folder of one that it is not."""
    libraries()
    try:
        return kind.from_pretrained(model.folder, local_files_only=True, **settings)
    except (OSError, ValueError, TypeError, KeyError) as error:
        cause = _first_line(error)
        raise ValueError(f"model {model.origin['name']}: cannot be loaded as {kind.__name__} ({cause})") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def read_pipeline(
    kind: type, model: ModelSettings, loading: LoadingSettings, compute: Compute
) -> tuple[Any, dict[str, str]]:
    """A pipeline as `load_pipeline` gives it, and its origin."""
    found = find_model(model.name, revision=model.revision, local_files_only=loading.local_files_only, pipeline=True)
    dtype = compute.dtype if loading.precision == "auto" else getattr(torch, loading.precision)
    return load_pipeline(kind, found, dtype), found.origin


def to_device(pipeline: Any, compute: Compute, loading: LoadingSettings) -> None:
    """Bring a pipeline to where it computes."""
    if loading.attention_slicing:
        pipeline.enable_attention_slicing()
    if loading.cpu_offload and not compute.on_cpu:  # on the CPU it lies there anyway
        pipeline.enable_model_cpu_offload(device=compute.device)
    else:
        pipeline.to(compute.device)
