"""CLIP's image tower as a backbone, and zero-shot classification, with open_clip's models.

A name is an architecture of open_clip (`ViT-B-32`), with the tag of its weights behind a slash where these are wanted
(`ViT-H-14/laion2b_s32b_b79k`), or a folder that holds `open_clip_config.json` and `open_clip_model.safetensors`.
"""

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hsfm.data.transforms import TransformSettings

PREFIX = "open_clip:"


class ImageTower(nn.Module):
    """CLIP's image tower with a fresh linear head on its projections, which are neither scaled nor normalized."""

    def __init__(self, visual: nn.Module, n_classes: int):
        super().__init__()
        self.visual = visual
        with torch.no_grad():  # not every tower tells its width
            d = visual.eval()(torch.zeros(1, 3, *_pair(visual.image_size))).shape[1]
        self.fc = nn.Linear(d, n_classes)

    def forward(self, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b c"]:
        return self.fc(self.visual(images))


def load_model(name: str, *, pretrained: bool) -> Any:
    """A model of open_clip on the CPU, with its weights or fresh ones; ValueError where it cannot be had."""
    open_clip, where = _library(), f"backbone: {PREFIX}{name}"
    if Path(name).is_dir():
        with _loading(where):
            how = {"load_weights": pretrained, "require_pretrained": pretrained}
            return open_clip.create_model(f"local-dir:{Path(name)}", **how)
    architecture, tag = _checked(name)
    if pretrained and not tag:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise ValueError(f"{where}: its weights need a tag behind a slash; allowed are {', '.join(tags) or 'none'}")
    weights = tag if pretrained else None
    with _loading(where):
        return open_clip.create_model(architecture, pretrained=weights, require_pretrained=pretrained)


def _checked(name: str) -> tuple[str, str]:
    """Architecture and tag of a name; ValueError where they are unknown, or do not go together."""
    open_clip, where = _library(), f"backbone: {PREFIX}{name}"
    architecture, _, tag = name.partition("/")
    if architecture not in open_clip.list_models():
        raise ValueError(f"{where}: neither a folder nor one of open_clip.list_models()")
    if not tag:
        return architecture, tag
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    if tag not in tags:
        raise ValueError(f"{where}: unknown tag {tag!r}; allowed are {', '.join(tags) or 'none'}")
    own = open_clip.get_model_config(architecture).get("quick_gelu", False)
    if open_clip.get_pretrained_cfg(architecture, tag).get("quick_gelu", False) != own:
        other = architecture.removesuffix("-quickgelu") if own else f"{architecture}-quickgelu"
        raise ValueError(f"{where}: weights {tag!r} are for another activation; name {other}/{tag}")
    return architecture, tag


def transform_named(name: str) -> dict[str, Any]:
    """The transform of the model called `name`, as one of ours; ValueError where none of ours is the same.

    The model is not made.
    """
    open_clip = _library()
    described = Path(name, "open_clip_config.json")
    if described.is_file():
        model = json.loads(described.read_text())
        config, own = model["model_cfg"], model.get("preprocess_cfg", {})
    else:
        architecture, tag = _checked(name)
        config = open_clip.get_model_config(architecture)
        own = open_clip.get_pretrained_cfg(architecture, tag) if tag else {}
    settings = {**asdict(open_clip.transform.PreprocessCfg()), **own}
    mode, interpolation = settings["resize_mode"], settings["interpolation"]
    size = _pair(own.get("size", config["vision_cfg"]["image_size"]))
    ways = {"shortest": ([min(size)], list(size)), "squash": (list(size), None)}
    if mode not in ways or interpolation not in ("bicubic", "bilinear"):
        raise ValueError(
            f"backbone: its images are resized by {mode}, {interpolation}; known are shortest and squash, bicubic and "
            "bilinear"
        )
    resize, crop = ways[mode]
    mean, std = list(settings["mean"]), list(settings["std"])
    return {"resize": resize, "crop": crop, "mean": mean, "std": std, "interpolation": interpolation}


def check_transform(name: str, transform: TransformSettings) -> None:
    """Raise ValueError unless a transform is that of the model called `name`."""
    expected, found = transform_named(name), transform.model_dump(mode="json")
    if found != expected:
        raise ValueError(f"transform: is {found}, but this CLIP model was trained on images after {expected}")


class ZeroShot:
    """Zero-shot classification of images by CLIP, among some descriptions (Radford et al., ICML 2021)."""

    def __init__(self, name: str, prompts: Sequence[str], device: torch.device):
        model = load_model(name, pretrained=True).eval().to(device)
        known = f"local-dir:{Path(name)}" if Path(name).is_dir() else name.partition("/")[0]
        with _loading(f"the tokenizer of {name}"):
            tokenizer = _library().get_tokenizer(known)
        with torch.inference_mode():
            text = model.encode_text(tokenizer(list(prompts)).to(device))
            self._text = text / text.norm(dim=-1, keepdim=True)
        self._scale = model.logit_scale.detach().exp()
        self.visual = model.visual

    @torch.inference_mode()
    def __call__(self, shown: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b k"]:
        """Probabilities of the descriptions, of images that are prepared as CLIP's are."""
        image = self.visual(shown)
        image = image / image.norm(dim=-1, keepdim=True)
        return (self._scale * image @ self._text.T).softmax(-1)


def _library() -> Any:
    try:
        import open_clip
    except ImportError as error:
        raise ValueError(f'backbone: {PREFIX} needs the extra [diffusion]; pip install -e ".[diffusion]"') from error
    return open_clip


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


@contextmanager
def _loading(where: str) -> Iterator[None]:
    """Errors as ValueError, and no warnings through the root logger of weights that a checkpoint of ours brings."""
    logging.disable(logging.WARNING)
    try:
        yield
    except Exception as error:  # no network, a broken folder: open_clip fails in any way
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{where}: cannot be loaded ({lines[0]})") from error
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":  # what the workflow asks while it reads its configuration
    try:
        print(json.dumps(transform_named(sys.argv[1])))
    except ValueError as problem:
        sys.exit(str(problem))
