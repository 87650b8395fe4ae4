"""Textual inversion: learn the embedding of a new token from a few images.

Gal et al., "An image is worth one word", ICLR 2023: the embedding of one new token is all that learns; it has to help
Stable Diffusion to tell the noise in these images.
"""

import json
import logging
import math
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int, UInt8
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss

from hsfm.core.device import Compute
from hsfm.core.files import read_safetensors
from hsfm.core.progress import Progress
from hsfm.core.settings import FrozenSettings
from hsfm.methods.ddb.diffusion_models import PictureSize, libraries
from hsfm.models.weights import read_resume, write_resume

log = logging.getLogger(__name__)

SAVE_EVERY = 100  # steps

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
    """Textual inversion: a word learned for the objects of each class."""

    images: PositiveInt = Field(30, description="Training images of the class, drawn by seed, or all there are.")
    size: PictureSize = Field((512, 512), description="Height and width in pixels, multiples of 8, of the images.")
    initial_word: str = Field(min_length=1, description="The object in one word of the model's, to start from.")
    steps: PositiveInt = Field(3000, description="Of AdamW.")
    batch_size: PositiveInt = Field(1, description="Images at once.")
    accumulation: PositiveInt = Field(4, description="Batches per step.")
    lr: PositiveFloat = Field(0.002, description="Constant: public code's 5e-4, scaled by an accumulation of 4.")
    seed: NonNegativeInt = Field(0, description="Of the drawn images and of the training.")


def learn_token(
    pipeline: Any,
    images: UInt8[Tensor, "n 3 h w"],
    *,
    token: str,
    settings: TokenSettings,
    compute: Compute,
    resume: Path | None = None,
) -> tuple[Float[Tensor, " d"], pd.DataFrame]:
    """The embedding of `token` for what `images` show, by AdamW at a constant learning rate; and the loss by step.

    pipeline: a text-to-image pipeline, on the device; it gets the new token, and is not changed otherwise. images: of
    the size that it makes; their mirror images are as likely. resume: a file that holds the state after every
    `SAVE_EVERY` steps; a run that finds it goes on from there. Raises ValueError for a token that is known already, an
    initial word of several tokens, and a loss that is no longer finite.
    """
    place, steps = _add_token(pipeline, token, settings.initial_word), settings.steps
    training = _Training(pipeline, images, place, settings, compute)
    losses = training.load(resume)
    if losses:
        log.info("resuming after step %d of %d", len(losses), steps)

    def put_row(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return torch.where((inputs[0] == place)[..., None], training.row.to(output.dtype), output)

    handle = pipeline.text_encoder.get_input_embeddings().register_forward_hook(put_row)
    new: list[Tensor] = []  # losses on the device, so that a step does not wait for them
    try:
        with compute.repeatable(), Progress(token, steps, "step", done=len(losses)) as bar:
            for step in range(len(losses) + 1, steps + 1):
                new.append(training.step())
                if step % SAVE_EVERY == 0 or step == steps:
                    losses += torch.stack(new).tolist()
                    if not all(map(math.isfinite, losses)):
                        at = f"after step {step}; lower lr (now {settings.lr})"
                        raise ValueError(f"{token}: the loss is no longer finite {at}")
                    log.info("%s, step %d of %d: loss %.4f", token, step, steps, sum(losses[-len(new) :]) / len(new))
                    new.clear()
                    training.save(resume, losses)
                bar.update()
    finally:
        handle.remove()
    return training.row.detach().cpu(), pd.DataFrame({"step": range(1, steps + 1), "loss": losses})


def _add_token(pipeline: Any, token: str, initial_word: str) -> int:
    """The number of a new token, which starts from a word."""
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


class _Training:
    """The row of the embedding table that learns, and all that its steps take."""

    def __init__(
        self, pipeline: Any, images: UInt8[Tensor, "n 3 h w"], place: int, settings: TokenSettings, compute: Compute
    ):
        diffusers, _ = libraries()
        self._pipeline, self._settings, self._device = pipeline, settings, compute.device
        for module in (pipeline.text_encoder, pipeline.unet, pipeline.vae):
            module.requires_grad_(False).eval()
        self.row = nn.Parameter(pipeline.text_encoder.get_input_embeddings().weight[place].detach().float().clone())
        # AdamW's defaults, which the public recipes use as well
        self._optimizer = torch.optim.AdamW([self.row], lr=settings.lr, betas=(0.9, 0.999), weight_decay=0.01)
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=pipeline.unet.dtype == torch.float16)
        self.generator = Generator().manual_seed(settings.seed)
        # the noise that the pipeline's network was trained to remove
        self.noise = diffusers.DDPMScheduler.from_config(pipeline.scheduler.config)
        tokenizer = pipeline.tokenizer
        texts = [prompt.format(tokenizer.convert_ids_to_tokens(place)) for prompt in PROMPTS]
        padded = {"padding": "max_length", "max_length": tokenizer.model_max_length, "truncation": True}
        self._prompts = tokenizer(texts, **padded, return_tensors="pt").input_ids
        with torch.no_grad():  # a normal distribution of latents for each image and its mirror image
            found = [
                pipeline.vae.encode((image.to(self._device) / 127.5 - 1).to(pipeline.vae.dtype)).latent_dist
                for image in torch.cat([images, images.flip(-1)]).split(1)
            ]
        self.mean, self.deviation = (torch.cat([getattr(d, name).float() for d in found]) for name in ("mean", "std"))

    def step(self) -> Float[Tensor, ""]:
        """One step of the optimizer on several batches; their mean loss.

        The squared error of what the network predicts: the noise, or the velocity (Salimans and Ho, ICLR 2022). Noise
        is added in float32: bfloat16 has no number between 0.9961 and 1, where the image's share lies early on.
        """
        unet, whole = self._pipeline.unet, torch.zeros((), device=self._device)
        for _ in range(self._settings.accumulation):
            clean, ids, eps, time = self.draw()
            hidden = self._pipeline.text_encoder(ids)[0]
            predicted = unet(self.noise.add_noise(clean, eps, time).to(unet.dtype), time, hidden).sample
            velocity = self.noise.config.prediction_type == "v_prediction"
            target = self.noise.get_velocity(clean, eps, time) if velocity else eps
            loss = mse_loss(predicted.float(), target.float()) / self._settings.accumulation
            self._scaler.scale(loss).backward()
            whole += loss.detach()
        self._scaler.step(self._optimizer)
        self._scaler.update()
        self._optimizer.zero_grad()
        return whole

    def draw(self) -> tuple[Float[Tensor, "b k h w"], Int[Tensor, "b t"], Float[Tensor, "b k h w"], Int[Tensor, " b"]]:
        """A batch: clean latents, token ids, noise and how far along it is, all from the generator."""
        choose = partial(torch.randint, size=(self._settings.batch_size,), generator=self.generator)
        rows = choose(len(self.mean)).to(self._device)
        spread = torch.randn(len(rows), *self.mean.shape[1:], generator=self.generator).to(self.mean)
        clean = (self.mean[rows] + self.deviation[rows] * spread) * self._pipeline.vae.config.scaling_factor
        eps = torch.randn(clean.shape, generator=self.generator)
        ids, time = self._prompts[choose(len(self._prompts))], choose(self.noise.config.num_train_timesteps)
        return clean, *(part.to(self._device) for part in (ids, eps, time))

    def save(self, path: Path | None, losses: list[float]) -> None:
        """Write all that changes from step to step; without a path nothing."""
        if path is not None:
            parts = {"optimizer": self._optimizer.state_dict(), "scaler": self._scaler.state_dict(), "losses": losses}
            write_resume(path, {**parts, "row": self.row.data, "generator": self.generator.get_state()})

    def load(self, path: Path | None) -> list[float]:
        """Losses of the steps that were done; none where there is no file."""
        found = None if path is None else read_resume(path)
        if found is None:
            return []
        self.row.data.copy_(found["row"])
        self._optimizer.load_state_dict(found["optimizer"])
        self._scaler.load_state_dict(found["scaler"])
        self.generator.set_state(found["generator"])
        return found["losses"]


def token_of(label: int, class_names: Sequence[str]) -> str:
    """A word for a class, after its name: <water-bird>; with its number where that says too little."""
    plain = [re.sub("[^a-z0-9]+", "-", name.lower()).strip("-") for name in class_names]
    return f"<{plain[label]}>" if plain[label] and plain.count(plain[label]) == 1 else f"<{plain[label]}-class{label}>"


def add_tokens(pipeline: Any, files: Sequence[str | Path]) -> tuple[list[str], dict[str, str]]:
    """Teach a pipeline the learned words of some files; these, and the model they were learned on.

    Raises ValueError where the pipeline's text encoder is of another width.
    """
    names, width = [], pipeline.text_encoder.get_input_embeddings().weight.shape[1]
    for path in files:
        tensors, metadata = read_safetensors(path)
        embedding, token, model = tensors["embedding"], metadata["token"], json.loads(metadata["model"])
        if embedding.shape != (width,):
            raise ValueError(
                f"{path}: has {len(embedding)} numbers, but the inpainting model's text encoder has {width}; it was "
                f"learned on {model['name']}, which has to share its text encoder"
            )
        pipeline.load_textual_inversion({token: embedding}, token=token)
        names.append(token)
    return names, model
