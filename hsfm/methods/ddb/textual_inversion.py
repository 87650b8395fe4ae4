"""Textual inversion: learn the embedding of a new token from a few images.

Gal et al., "An image is worth one word", ICLR 2023: the embedding of one new token is all that learns; it has to help
Stable Diffusion to tell the noise in these images.
"""

import json
import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from diffusers import DDPMScheduler
from jaxtyping import Float, Int, UInt8
from torch import Generator, Tensor, nn
from torch.nn.functional import mse_loss

from hsfm.core.device import Compute
from hsfm.core.files import read_leftover, write_safetensors
from hsfm.core.progress import Progress
from hsfm.models.optimizer_state import as_tensors, load_tensors

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


@dataclass(frozen=True)
class Learned:
    embedding: Float[Tensor, " d"]
    history: pd.DataFrame  # step (from 1), loss


def learn_token(
    pipeline: Any,
    images: UInt8[Tensor, "n 3 h w"],
    *,
    token: str,
    initial_word: str,
    steps: int,
    batch_size: int,
    accumulation: int,
    lr: float,
    seed: int,
    compute: Compute,
    save_every: int = 100,
    resume: Path | None = None,
) -> Learned:
    """The embedding of `token` for what `images` show, by AdamW at a constant learning rate.

    pipeline: a text-to-image pipeline, on the device; it gets the new token, and is not changed otherwise. images: of
    the size that it makes, multiples of 8. initial_word: a word of one token, from whose embedding it starts. A step
    takes `accumulation` batches. Images and their mirror images are equally likely, and so are `PROMPTS`. resume: a
    file that holds the state after every `save_every` steps; a run that finds it goes on from there. The caller names
    it after everything the result depends on, and removes it when done.

    Raises ValueError for a token that is known already, an initial word of several tokens, and a loss that is no longer
    finite.
    """
    place = _add_token(pipeline, token, initial_word)
    encoder, unet = pipeline.text_encoder, pipeline.unet
    for module in (encoder, unet, pipeline.vae):
        module.requires_grad_(False).eval()
    table = encoder.get_input_embeddings()
    row = nn.Parameter(table.weight[place].detach().float().clone())
    # AdamW's defaults, which the public recipes use as well
    optimizer = torch.optim.AdamW([row], lr=lr, betas=(0.9, 0.999), weight_decay=0.01)
    scaler = torch.amp.GradScaler(compute.device.type, enabled=unet.dtype == torch.float16)
    noise = DDPMScheduler.from_config(pipeline.scheduler.config)
    prompts = pipeline.tokenizer(
        [prompt.format(token) for prompt in PROMPTS],
        padding="max_length",
        max_length=pipeline.tokenizer.model_max_length,
        truncation=True,
        return_tensors="pt",
    ).input_ids
    latents = _Latents(pipeline.vae, images, compute.device)
    generator = Generator().manual_seed(seed)
    losses = _load(resume, row, optimizer, generator, scaler)
    if losses:
        log.info("resuming after step %d of %d", len(losses), steps)

    def put_row(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        return torch.where((inputs[0] == place)[..., None], row.to(output.dtype), output)

    handle = table.register_forward_hook(put_row)
    new: list[Tensor] = []  # losses on the device, so that a step does not wait for them
    try:
        with compute.repeatable(), Progress(token, steps, "step", done=len(losses)) as bar:
            for step in range(len(losses) + 1, steps + 1):
                new.append(torch.zeros((), device=compute.device))
                for _ in range(accumulation):
                    clean, ids, eps, time = _draw(latents, prompts, noise, batch_size, generator)
                    hidden = encoder(ids.to(compute.device))[0]
                    loss = _loss(unet, noise, clean, eps.to(clean), time.to(compute.device), hidden) / accumulation
                    scaler.scale(loss).backward()
                    new[-1] += loss.detach()
                scaler.step(optimizer)
                scaler.update()
                optimizer.zero_grad()
                if step % save_every == 0 or step == steps:
                    losses += torch.stack(new).tolist()
                    new.clear()
                    if not all(map(math.isfinite, losses)):
                        raise ValueError(
                            f"{token}: the loss is no longer finite after step {step}; lower lr (now {lr})"
                        )
                    last = losses[-save_every:]
                    log.info("%s, step %d of %d: loss %.4f", token, step, steps, sum(last) / len(last))
                    if resume is not None:
                        _save(resume, row, optimizer, generator, scaler, losses)
                bar.update()
    finally:
        handle.remove()
    history = pd.DataFrame({"step": range(1, steps + 1), "loss": losses})
    return Learned(row.detach().cpu(), history)


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


def _save(
    path: Path,
    row: Tensor,
    optimizer: torch.optim.Optimizer,
    generator: Generator,
    scaler: torch.amp.GradScaler,
    losses: list[float],
) -> None:
    tensors = {
        "row": row,
        "generator": generator.get_state(),
        "losses": torch.tensor(losses, dtype=torch.float64),
        **{f"optimiser.{key}": value for key, value in as_tensors(optimizer).items()},
    }
    write_safetensors(path, tensors, {"scaler": json.dumps(scaler.state_dict())})


def _load(
    path: Path | None,
    row: nn.Parameter,
    optimizer: torch.optim.Optimizer,
    generator: Generator,
    scaler: torch.amp.GradScaler,
) -> list[float]:
    """Losses of the steps that were done; none where there is no file."""
    found = None if path is None else read_leftover(path)
    if found is None:
        return []
    tensors, metadata = found
    with torch.no_grad():
        row.copy_(tensors["row"])
    moments = {key: value for key, value in tensors.items() if key.startswith("optimiser.")}
    load_tensors(optimizer, {key.removeprefix("optimiser."): value for key, value in moments.items()})
    generator.set_state(tensors["generator"])
    scaler.load_state_dict(json.loads(metadata["scaler"]))
    return tensors["losses"].tolist()
