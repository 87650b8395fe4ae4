"""CLIP's image tower as a backbone, and zero-shot classification, with open_clip's models.

A name is an architecture of open_clip (`ViT-B-32`), with the tag of its weights behind a slash where these are wanted
(`ViT-H-14/laion2b_s32b_b79k`), or a folder that holds `open_clip_config.json` and `open_clip_model.safetensors`.
"""

import json
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
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


def load_model(name: str, *, pretrained: bool, device: str = "cpu") -> Any:
    """A model of open_clip, with its weights or fresh ones; ValueError where it cannot be had.

    What `transform_of` says is that of the weights either way.
    """
    open_clip, (architecture, _, tag) = _library(), name.partition("/")
    if Path(name).is_dir():
        architecture, tag = f"local-dir:{Path(name)}", ""
    with _loading(f"backbone: {PREFIX}{name}"):
        return open_clip.create_model(
            architecture,
            tag if pretrained else None,
            load_weights=pretrained,
            require_pretrained=pretrained,
            force_preprocess_cfg=open_clip.get_pretrained_cfg(architecture, tag) if tag else None,
            device=device,
        )


def transform_of(visual: nn.Module) -> dict[str, Any]:
    """The transform of an image tower of `load_model`, as one of ours; ValueError where none of ours is the same."""
    own = visual.preprocess_cfg
    mode, interpolation, size = own["resize_mode"], own["interpolation"], _pair(own["size"])
    ways = {"shortest": ([min(size)], list(size)), "squash": (list(size), None)}
    if mode not in ways or interpolation not in ("bicubic", "bilinear"):
        raise ValueError(f"backbone: its images are resized by {mode}, {interpolation}, which no transform here does")
    resize, crop = ways[mode]
    mean, std = list(own["mean"]), list(own["std"])
    return {"resize": resize, "crop": crop, "mean": mean, "std": std, "interpolation": interpolation}


def check_transform(visual: nn.Module, transform: TransformSettings) -> None:
    """Raise ValueError unless a transform is that of an image tower."""
    expected, found = transform_of(visual), transform.model_dump(mode="json")
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
        with warnings.catch_warnings():
            warnings.filterwarnings("error", "QuickGELU mismatch")  # weights that are for another activation
            yield
    except Exception as error:  # no network, a broken folder: open_clip fails in any way
        raise ValueError(f"{where}: cannot be loaded ({shorten(str(error), 300)})") from error
    finally:
        logging.disable(logging.NOTSET)


if __name__ == "__main__":
    try:
        with torch.device("meta"):  # without memory for its parameters
            print(json.dumps(transform_of(load_model(sys.argv[1], pretrained=False, device="meta").visual)))
    except ValueError as problem:
        sys.exit(str(problem))
