"""Textual inversion: learn the embedding of a new token from a few images.

Gal et al., "An image is worth one word", ICLR 2023: the embedding of one new token is all that learns; it has to help
Stable Diffusion to tell the noise in these images.
"""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int, UInt8
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss

from hsfm.core.device import Compute
from hsfm.core.progress import Progress
from hsfm.core.settings import FrozenSettings
from hsfm.methods.ddb.diffusion_models import PictureSize, libraries
from hsfm.models.state import read_state, write_state

log = logging.getLogger(__name__)

PROMPTS = (
    "a photo of a {}",
    "a picture of a {}",
    "a close photo of a {}",
    "a cropped photo of the {}",
    "a bright photo of the {}",
    "a dark photo of the {}",
    "a good photo of a {}",
    "a blurred photo of a {}",
    "a photo of one {}",
    "a photo of a small {}",
    "a photo of a large {}",
    "the {}",
)


class TokenSettings(FrozenSettings):
    """Textual inversion: a word learnt for the objects of each class."""

    images: PositiveInt = Field(
        30, description="Training images of the class, drawn by seed; all where there are fewer."
    )
    size: PictureSize = Field(
        (512, 512), description="Height and width in pixels, multiples of 8; images are resized to it."
    )
    initial_word: str = Field(
        min_length=1, description="What it is, in one word that the model knows; the learnt word starts from it."
    )
    steps: PositiveInt = Field(3000, description="Of AdamW.")
    batch_size: PositiveInt = Field(1, description="Images at once.")
    accumulation: PositiveInt = Field(4, description="Batches per step.")
    lr: float = Field(
        0.002,
        gt=0,
        description="Constant learning rate; of public code's 5e-4, scaled by an accumulation of 4, this is 0.002.",
    )
    seed: NonNegativeInt = Field(0, description="Of the drawn images and of the training.")


@dataclass(frozen=True)
class Learned:
    embedding: Float[Tensor, " d"]
    history: pd.DataFrame  # step (from 1), loss


def learn_token(
    pipeline: Any,
    images: UInt8[Tensor, "n 3 h w"],
    *,
    token: str,
    settings: TokenSettings,
    compute: Compute,
    save_every: int = 100,
    resume: Path | None = None,
) -> Learned:
    """The embedding of `token` for what `images` show, by AdamW at a constant learning rate.

    pipeline: a text-to-image pipeline, on the device; it gets the new token, and is not changed otherwise. images: of
    the size that it makes. Images and their mirror images are equally likely, and so are `PROMPTS`. resume: a file that
    holds the state after every `save_every` steps; a run that finds it goes on from there. The caller names it after
    everything the result depends on, and removes it when done.

    Raises ValueError for a token that is known already, an initial word of several tokens, and a loss that is no longer
    finite.
    """
    place, steps = _add_token(pipeline, token, settings.initial_word), settings.steps
    for module in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
        module.requires_grad_(False).eval()
    table = pipeline.text_encoder.get_input_embeddings()
    state = _State(table.weight[place], settings, compute.device, pipeline.unet.dtype)
    noise, latents = _noise_of(pipeline), _Latents(pipeline.vae, images, compute.device)
    draw = partial(_draw, latents, _prompts(pipeline, token), noise, settings.batch_size, state.generator)
    losses = state.load(resume)
    if losses:
        log.info("resuming after step %d of %d", len(losses), steps)

    def put_row(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return torch.where((inputs[0] == place)[..., None], state.row.to(output.dtype), output)

    handle = table.register_forward_hook(put_row)
    new: list[Tensor] = []  # losses on the device, so that a step does not wait for them
    try:
        with compute.repeatable(), Progress(token, steps, "step", done=len(losses)) as bar:
            for step in range(len(losses) + 1, steps + 1):
                new.append(_step(pipeline, noise, draw, state, settings.accumulation, compute))
                if step % save_every == 0 or step == steps:
                    losses += torch.stack(new).tolist()
                    new.clear()
                    if not all(map(math.isfinite, losses)):
                        at = f"after step {step}; lower lr (now {settings.lr})"
                        raise ValueError(f"{token}: the loss is no longer finite {at}")
                    last = losses[-save_every:]
                    log.info("%s, step %d of %d: loss %.4f", token, step, steps, sum(last) / len(last))
                    if resume is not None:
                        state.save(resume, losses)
                bar.update()
    finally:
        handle.remove()
    history = pd.DataFrame({"step": range(1, steps + 1), "loss": losses})
    return Learned(state.row.detach().cpu(), history)


def _noise_of(pipeline: Any) -> Any:
    """The noise that the pipeline's network was trained to remove, as a scheduler of diffusers."""
    diffusers, _ = libraries()
    return diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)


def _prompts(pipeline: Any, token: str) -> Int[Tensor, "k t"]:
    """`PROMPTS` about a token, as the text encoder reads them."""
    return pipeline.tokenizer(
        [prompt.format(token) for prompt in PROMPTS],
        padding="max_length",
        max_length=pipeline.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids


def _add_token(pipeline: Any, token: str, initial_word: str) -> int:
    """Make room for a new token, and start it from a word; returns its number."""
    tokenizer = pipeline.tokenizer
    first = tokenizer(initial_word, add_special_tokens=False).input_ids
    if len(first) != 1:
        pieces = ", ".join(tokenizer.convert_ids_to_tokens(first)) or "nothing"
        raise ValueError(f"initial_word: {initial_word!r} is {pieces} to the tokenizer, expected one token")
    if tokenizer.add_tokens(token) != 1:
        raise ValueError(f"token: {token!r} is known to the tokenizer already; take another")
    place = tokenizer.convert_tokens_to_ids(token)
    pipeline.text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    weight = pipeline.text_encoder.get_input_embeddings().weight
    with torch.no_grad():
        weight[place] = weight[first[0]]
    return place


class _Latents:
    """Latents of the images and their mirror images, encoded once by the VAE: a normal distribution for each."""

    def __init__(self, vae: Any, images: UInt8[Tensor, "n 3 h w"], device: torch.device):
        means, deviations = [], []
        with torch.inference_mode():
            for image in torch.cat([images, images.flip(-1)]).split(1):
                found = vae.encode((image.to(device) / 127.5 - 1).to(vae.dtype)).latent_dist
                means.append(found.mean.float())
                deviations.append(found.std.float())
        # out of inference mode, or autograd could not keep them
        self.mean, self.deviation = torch.cat(means).clone(), torch.cat(deviations).clone()
        self.scale = vae.config.scaling_factor

    def draw(self, rows: Int[Tensor, " b"], generator: Generator) -> Float[Tensor, "b k h w"]:
        rows = rows.to(self.mean.device)
        eps = torch.randn(len(rows), *self.mean.shape[1:], generator=generator).to(self.mean)
        return (self.mean[rows] + self.deviation[rows] * eps) * self.scale


def _draw(
    latents: _Latents, prompts: Tensor, noise: Any, batch_size: int, generator: Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch: clean latents, token ids, noise and how far along it is, all from the generator."""

    def choose(n: int) -> Tensor:
        return torch.randint(n, (batch_size,), generator=generator)

    clean = latents.draw(choose(len(latents.mean)), generator)
    eps = torch.randn(clean.shape, generator=generator)
    return clean, prompts[choose(len(prompts))], eps, choose(noise.config.num_train_timesteps)


def _loss(
    unet: Any,
    noise: Any,
    clean: Float[Tensor, "b k h w"],
    eps: Float[Tensor, "b k h w"],
    time: Int[Tensor, " b"],
    hidden: Float[Tensor, "b t d"],
) -> Float[Tensor, ""]:
    """Mean squared error of what the network predicts: the noise, or the velocity (Salimans and Ho, ICLR 2022).

    Noise is added in float32: bfloat16 has no number between 0.9961 and 1, where the image's share lies early on.
    """
    noisy = noise.add_noise(clean, eps, time).to(unet.dtype)
    predicted = unet(noisy, time, hidden).sample
    kind = noise.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"the model predicts {kind!r}; allowed are epsilon, v_prediction")
    target = eps if kind == "epsilon" else noise.get_velocity(clean, eps, time)
    return mse_loss(predicted.float(), target.float())


class _State:
    """All that changes while a row learns, starting from `row`."""

    def __init__(self, row: Float[Tensor, " d"], settings: TokenSettings, device: torch.device, dtype: torch.dtype):
        self.row = nn.Parameter(row.detach().float().clone())
        # AdamW's defaults, which the public recipes use as well
        self.optimizer = torch.optim.AdamW([self.row], lr=settings.lr, betas=(0.9, 0.999), weight_decay=0.01)
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self.generator = Generator().manual_seed(settings.seed)

    def save(self, path: Path, losses: list[float]) -> None:
        parts = {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}
        write_state(path, {**parts, "row": self.row.data, "generator": self.generator.get_state(), "losses": losses})

    def load(self, path: Path | None) -> list[float]:
        """Losses of the steps that were done; none where there is no file."""
        found = None if path is None else read_state(path)
        if found is None:
            return []
        self.row.data.copy_(found["row"])
        self.optimizer.load_state_dict(found["optimizer"])
        self.scaler.load_state_dict(found["scaler"])
        self.generator.set_state(found["generator"])
        return found["losses"]


def _step(
    pipeline: Any, noise: Any, draw: Callable[[], tuple], state: _State, accumulation: int, compute: Compute
) -> Float[Tensor, ""]:
    """One step of the optimizer on so many batches; their mean loss."""
    whole = torch.zeros((), device=compute.device)
    for _ in range(accumulation):
        clean, ids, eps, time = draw()
        hidden = pipeline.text_encoder(ids.to(compute.device))[0]
        loss = _loss(pipeline.unet, noise, clean, eps.to(clean), time.to(compute.device), hidden) / accumulation
        state.scaler.scale(loss).backward()
        whole += loss.detach()
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad()
    return whole
