"""Textual inversion, segmentation and inpainting on tiny random models, loaded by the real code from folders."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from pydantic import ValidationError
from torch.nn.functional import mse_loss
from transformers import SamModel

from benchmarks import random_models
from hsfm.core.device import Compute, ComputeSettings
from hsfm.methods.ddb import textual_inversion
from hsfm.methods.ddb.diffusion_models import (
    LoadingSettings,
    Model,
    choose_dtype,
    find_model,
    load_part,
    load_pipeline,
    to_device,
)
from hsfm.methods.ddb.generated import NOTHING_FOUND, plan
from hsfm.methods.ddb.inpaint import Batch, InpaintSettings, at_size, inpaint, inpaint_parts
from hsfm.methods.ddb.segment import Segmenter, SegmentSettings
from hsfm.methods.ddb.textual_inversion import PROMPTS, TokenSettings, learn_token

CPU = Compute(torch.device("cpu"))
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    random_models.write_all(folder)
    return folder


def local(folder: Path, name: str) -> Model:
    return find_model(str(folder / name), pipeline=name in ("text_to_image", "inpainting"))


def pictures(n: int, height: int, width: int, seed: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8))


# Models ---------------------------------------------------------------------------------------------------------------


def test_a_folder_is_told_by_what_it_holds(folder, tmp_path):
    first, again = (local(folder, "segmenter").origin for _ in range(2))
    assert first == again
    assert first["commit"].startswith("folder ")
    copy = tmp_path / "copy"
    shutil.copytree(folder / "segmenter", copy)
    assert find_model(str(copy), pipeline=False).origin["commit"] == first["commit"], "wherever it lies"
    with open(copy / "model.safetensors", "ab") as file:
        file.write(b"0")
    assert find_model(str(copy), pipeline=False).origin["commit"] != first["commit"]
    with pytest.raises(ValueError, match="is a folder, which has no revision"):
        find_model(str(copy), revision="main", pipeline=False)


def test_names_are_found_among_what_was_downloaded_and_their_commit_is_known(folder, tmp_path, monkeypatch):
    """The hub's cache, laid out as its client does."""
    cached = tmp_path / "models--someone--sam"
    shutil.copytree(folder / "segmenter", cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    pipeline = tmp_path / "models--someone--sd"
    shutil.copytree(folder / "inpainting", pipeline / "snapshots" / COMMIT)
    (pipeline / "refs").mkdir()
    (pipeline / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for revision in (None, "main", COMMIT):
        found = find_model("someone/sam", revision=revision, local_files_only=True, pipeline=False)
        assert found.origin == {"name": "someone/sam", "commit": COMMIT}
        assert isinstance(load_part(SamModel, found, use_safetensors=True), SamModel)
    found = find_model("someone/sd", local_files_only=True, pipeline=True)
    assert found.origin == {"name": "someone/sd", "commit": COMMIT}
    assert load_pipeline(StableDiffusionInpaintPipeline, found, torch.float32).unet.config.in_channels == 9
    by_path = find_model(str(cached / "snapshots" / COMMIT), pipeline=False)
    assert by_path.origin["commit"] == COMMIT
    with pytest.raises(ValueError, match="model someone/sam, revision v2: neither a folder nor found among what was"):
        find_model("someone/sam", revision="v2", local_files_only=True, pipeline=False)
    for name in ("someone/else", "no such folder/at all/here"):
        with pytest.raises(
            ValueError, match=f"model {name}: neither a folder nor found .*; run once on a machine with"
        ):
            find_model(name, local_files_only=True, pipeline=True)


def test_a_hub_that_cannot_be_asked_is_said_and_what_is_there_is_taken(folder, tmp_path, monkeypatch, caplog):
    """Time-outs of a machine without a network come as errors of the hub's own client."""

    def asked(name, revision, local_files_only, pipeline):
        if local_files_only and name == "someone/sam":
            return str(folder / "segmenter")
        raise RuntimeError("see above") from ConnectionError("the connection timed out\nwith a second line")

    monkeypatch.setattr("hsfm.methods.ddb.diffusion_models._download", asked)
    assert find_model("someone/sam", pipeline=False).folder == folder / "segmenter"
    assert "model someone/sam: the hub cannot be asked (the connection timed out); taking what was" in caplog.text
    with pytest.raises(
        ValueError, match=r"model someone/sd: neither a folder nor found on the hub \(the connection timed out\)"
    ):
        find_model("someone/sd", pipeline=True)


def test_a_folder_of_something_else_is_named(folder, tmp_path):
    with pytest.raises(ValueError, match=r"model .*segmenter: cannot be loaded as StableDiffusionPipeline"):
        load_pipeline(StableDiffusionPipeline, local(folder, "segmenter"), torch.float32)
    with pytest.raises(ValueError, match="cannot be loaded as SamModel"):
        load_part(SamModel, find_model(str(tmp_path), pipeline=False), use_safetensors=True)


def test_precision(monkeypatch):
    assert choose_dtype("auto", CPU) is torch.float32
    assert choose_dtype("bfloat16", CPU) is torch.bfloat16
    with pytest.raises(ValueError, match="float16 was asked for, which the CPU has not"):
        choose_dtype("float16", CPU)
    with pytest.raises(ValidationError, match="precision"):
        LoadingSettings(precision="half")


def test_slicing_changes_rounding_alone_and_offload_nothing_on_the_cpu(folder):
    batch = at_size(some_batch(2), (32, 32))
    results, attention = [], []
    for loading in (LoadingSettings(), LoadingSettings(attention_slicing=True, cpu_offload=True)):
        pipeline = load_pipeline(StableDiffusionInpaintPipeline, local(folder, "inpainting"), torch.float32)
        to_device(pipeline, CPU, loading)
        attention.append({type(processor).__name__ for processor in pipeline.unet.attn_processors.values()})
        (made,) = inpaint(pipeline, [batch], steps=3, guidance=7.5, compute=CPU)
        results.append(np.stack(made).astype(int))
    assert abs(results[0] - results[1]).max() <= 1
    assert "SlicedAttnProcessor" not in attention[0]
    assert attention[1] == {"SlicedAttnProcessor"}


def test_offload_is_for_gpus():
    class Pipeline:
        def __init__(self):
            self.calls = []

        def enable_model_cpu_offload(self, device):
            self.calls.append(("offload", device))

        def to(self, device):
            self.calls.append(("to", device))

    gpu, calls = torch.device("cuda:0"), []
    for device, offload in ((gpu, True), (gpu, False), (torch.device("cpu"), True)):
        pipeline = Pipeline()
        compute = Compute(device, ComputeSettings(precision="float32"))
        to_device(pipeline, compute, LoadingSettings(cpu_offload=offload))
        calls += pipeline.calls
    assert calls == [("offload", gpu), ("to", gpu), ("to", torch.device("cpu"))]


# Textual inversion ----------------------------------------------------------------------------------------------------

LEARNING = {"initial_word": "bird", "steps": 6, "batch_size": 2, "accumulation": 2, "lr": 0.01}


def learned_by(pipeline, images, *, save_every=100, resume=None, **changed) -> textual_inversion.Learned:
    settings = TokenSettings(**{**LEARNING, **changed})
    how = {"settings": settings, "compute": CPU, "save_every": save_every, "resume": resume}
    return learn_token(pipeline, images, token="<waterbird>", **how)


def text_to_image(folder: Path, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    return load_pipeline(StableDiffusionPipeline, local(folder, "text_to_image"), dtype)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures(3, 16, 16))).permute(0, 3, 1, 2)


def states(pipeline) -> dict[str, torch.Tensor]:
    parts = {"unet": pipeline.unet, "vae": pipeline.vae, "text": pipeline.text_encoder}
    return {f"{name}.{key}": value.clone() for name, part in parts.items() for key, value in part.state_dict().items()}


def test_nothing_but_the_new_row_learns(folder, images):
    pipeline = text_to_image(folder)
    before, words = states(pipeline), len(pipeline.tokenizer)
    table = pipeline.text_encoder.get_input_embeddings().weight.clone()
    learned = learned_by(pipeline, images)
    after = states(pipeline)
    (grown,) = (key for key in before if key.endswith("token_embedding.weight"))
    assert all(torch.equal(after[key], value) for key, value in before.items() if key != grown)
    assert torch.equal(after[grown][:words], before[grown])
    assert len(pipeline.tokenizer) == words + 1
    start = table[pipeline.tokenizer("bird", add_special_tokens=False).input_ids[0]]
    assert 0 < (learned.embedding - start).abs().max() < 6 * 2 * 0.01
    assert learned.history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert (learned.history["loss"] > 0).all()
    assert all(parameter.grad is None for parameter in pipeline.text_encoder.parameters())


def test_its_gradient_is_that_of_the_row_of_the_whole_embedding_table(folder, images, monkeypatch):
    """One step, against autograd through the table of a pipeline that has the token, with the same draws."""
    ours = learned_by(text_to_image(folder), images, steps=1)
    pipeline = text_to_image(folder)
    place = textual_inversion._add_token(pipeline, "<waterbird>", "bird")
    table = pipeline.text_encoder.get_input_embeddings().weight
    noise = DDPMScheduler.from_config(pipeline.scheduler.config)
    prompts = pipeline.tokenizer([prompt.format("<waterbird>") for prompt in PROMPTS], padding="max_length",
                                 max_length=77, return_tensors="pt").input_ids  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    latents = textual_inversion._Latents(pipeline.vae, images, torch.device("cpu"))
    losses = []
    for _ in range(2):
        clean, ids, eps, time = textual_inversion._draw(latents, prompts, noise, 2, generator)
        assert (ids == place).any(1).all(), "every prompt holds the token"
        hidden = pipeline.text_encoder(ids)[0]
        # the model's networks predict velocity
        target = noise.get_velocity(clean, eps, time)
        predicted = pipeline.unet(noise.add_noise(clean, eps, time), time, hidden).sample
        losses.append(mse_loss(predicted, target) / 2)
        losses[-1].backward()
    row = torch.nn.Parameter(table[place].detach().clone())
    row.grad = table.grad[place].clone()
    torch.optim.AdamW([row], lr=0.01, weight_decay=0.01).step()
    torch.testing.assert_close(ours.embedding, row.detach())
    assert ours.history["loss"].item() == pytest.approx(sum(float(loss.detach()) for loss in losses), rel=1e-5)


def test_latents_are_of_images_and_their_mirror_images(folder, images):
    vae = text_to_image(folder).vae
    latents = textual_inversion._Latents(vae, images, torch.device("cpu"))
    with torch.no_grad():
        expected = vae.encode(images[1:2].flip(-1) / 127.5 - 1).latent_dist
    torch.testing.assert_close(latents.mean[4:5], expected.mean)
    torch.testing.assert_close(latents.deviation[4:5], expected.std)
    drawn = latents.draw(torch.full((4000,), 4), torch.Generator().manual_seed(0)) / vae.config.scaling_factor
    torch.testing.assert_close(drawn.mean(0), expected.mean[0], rtol=0.1, atol=0.1 * float(expected.std.max()))


def test_learning_helps(folder, images):
    """On draws that are no part of the training: less noise is left than with the word it started from."""
    learned = learned_by(text_to_image(folder), images, steps=80, batch_size=4, lr=0.1)
    pipeline = text_to_image(folder)
    place = textual_inversion._add_token(pipeline, "<waterbird>", "bird")
    table = pipeline.text_encoder.get_input_embeddings().weight
    noise = DDPMScheduler.from_config(pipeline.scheduler.config)
    ids = pipeline.tokenizer(["a photo of a <waterbird>"] * 64, padding="max_length", return_tensors="pt").input_ids
    latents, left = textual_inversion._Latents(pipeline.vae, images, torch.device("cpu")), []
    with torch.no_grad():
        for row in (table[place].clone(), learned.embedding):
            table[place] = row
            clean, _, eps, time = textual_inversion._draw(latents, ids, noise, 64, torch.Generator().manual_seed(5))
            left.append(
                float(textual_inversion._loss(pipeline.unet, noise, clean, eps, time, pipeline.text_encoder(ids)[0]))
            )
    assert left[1] < left[0]


def test_a_token_that_was_interrupted_is_the_same(folder, images, tmp_path, monkeypatch):
    expected = learned_by(text_to_image(folder), images, save_every=2)
    resume, loss, calls = tmp_path / "resume.pt", textual_inversion._loss, []

    def stop_in_the_fifth_step(*args):
        calls.append(None)
        if len(calls) == 9:  # two batches a step
            raise KeyboardInterrupt
        return loss(*args)

    monkeypatch.setattr(textual_inversion, "_loss", stop_in_the_fifth_step)
    with pytest.raises(KeyboardInterrupt):
        learned_by(text_to_image(folder), images, save_every=2, resume=resume)
    monkeypatch.setattr(textual_inversion, "_loss", lambda *args: calls.append(None) or loss(*args))
    calls.clear()
    again = learned_by(text_to_image(folder), images, save_every=2, resume=resume)
    assert len(calls) == 4, "the last two steps"
    assert torch.equal(again.embedding, expected.embedding)
    assert again.history.equals(expected.history)


def test_low_precision_keeps_the_row_in_float32(folder, images):
    pipeline = text_to_image(folder, torch.bfloat16)
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.bfloat16}
    learned = learned_by(pipeline, images)
    exact = learned_by(text_to_image(folder), images)
    assert learned.embedding.dtype == torch.float32
    torch.testing.assert_close(learned.history["loss"].mean(), exact.history["loss"].mean(), rtol=0.05, atol=0)


def test_what_cannot_be_learned_is_said(folder, images):
    with pytest.raises(ValueError, match=r"initial_word: 'birds' is bir, d, s</w> to the tokenizer, expected one"):
        learned_by(text_to_image(folder), images, initial_word="birds")
    pipeline = text_to_image(folder)
    pipeline.tokenizer.add_tokens("<waterbird>")
    with pytest.raises(ValueError, match="token: '<waterbird>' is known to the tokenizer already"):
        learned_by(pipeline, images)
    with pytest.raises(ValueError, match="the loss is no longer finite after step 6; lower lr"):
        learned_by(text_to_image(folder), images, lr=1e30)


# Segmentation ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def segmenter(folder) -> Segmenter:
    return Segmenter(local(folder, "detector"), local(folder, "segmenter"), CPU)


SEGMENT = SegmentSettings(prompt="bird.", box_threshold=0.3)


def test_masks_have_the_size_of_their_images_and_do_not_depend_on_the_batch(segmenter):
    images = [*pictures(2, 48, 40), *pictures(2, 30, 60, seed=1), *pictures(1, 48, 40, seed=2)]
    together = segmenter(images, SEGMENT)
    for image, found in zip(images, together, strict=True):
        (alone,) = segmenter([image], SEGMENT)
        assert found.mask.shape == image.shape[:2]
        torch.testing.assert_close(found.scores, alone.scores, rtol=1e-3, atol=1e-4)
        assert (found.mask != alone.mask).mean() < 0.02
        assert (found.scores[:-1] >= found.scores[1:]).all()
        assert (found.scores >= 0.3).all()


def test_the_mask_covers_what_any_box_shows(segmenter):
    (image,) = pictures(1, 48, 40)
    (found,) = segmenter([image], SEGMENT)
    assert len(found.boxes) > 1
    pixels = segmenter._sam_input(images=[image], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        embedding = segmenter._sam.get_image_embeddings(pixels)
        each = [segmenter._segment(image, box[None], embedding) for box in found.boxes]
    np.testing.assert_array_equal(found.mask, np.any(each, axis=0))


def test_models_in_half_precision_are_computed_in_float32(folder, tmp_path, segmenter):
    low = tmp_path / "low"
    shutil.copytree(folder / "segmenter", low)
    SamModel.from_pretrained(low).half().save_pretrained(low)
    other = Segmenter(local(folder, "detector"), find_model(str(low), pipeline=False), CPU)
    images = pictures(1, 48, 40)
    (ours,), (theirs,) = (one(images, SEGMENT) for one in (other, segmenter))
    assert (ours.mask != theirs.mask).mean() < 0.05


def test_nothing_found_is_no_mask(segmenter):
    images = pictures(2, 48, 40)
    for found in segmenter(images, SegmentSettings(prompt="bird.", box_threshold=1.0)):
        assert found.mask is None
        assert found.boxes.shape == (0, 4)


# Inpainting -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inpainter(folder):
    pipeline = load_pipeline(StableDiffusionInpaintPipeline, local(folder, "inpainting"), torch.float32)
    pipeline.load_textual_inversion({"<waterbird>": torch.ones(random_models.WIDTH)}, token="<waterbird>")
    return pipeline


def some_batch(n: int, height: int = 24, width: int = 40) -> Batch:
    masks = [np.zeros((height, width), bool) for _ in range(n)]
    for number, mask in enumerate(masks):
        mask[4 + number : 16, 8:30] = True
    return Batch(
        pictures(n, height, width), masks, [f"a photo of a bird {i}" for i in range(n)], list(range(10, 10 + n))
    )


def part(batch: Batch, rows: list[int]) -> Batch:
    return Batch(*([values[row] for row in rows] for values in (batch.images, batch.masks, batch.prompts, batch.seeds)))


def drawn(pipeline, *batches: Batch) -> np.ndarray:
    sized = [at_size(batch, (32, 32)) for batch in batches]
    made = inpaint(pipeline, sized, steps=4, guidance=7.5, compute=CPU)
    return np.array([picture for pictures_of_batch in made for picture in pictures_of_batch]).astype(int)


def test_neither_order_nor_batches_change_a_picture(inpainter):
    batch = some_batch(5)
    whole = drawn(inpainter, batch)
    assert whole.shape == (5, 24, 40, 3)
    order = [3, 1, 4, 0, 2]
    shuffled = drawn(inpainter, part(batch, order[:2]), part(batch, order[2:]))
    assert abs(shuffled - whole[order]).max() <= 1, "but for rounding"
    reseeded = drawn(inpainter, Batch(batch.images, batch.masks, batch.prompts, [99, *batch.seeds[1:]]))
    assert abs(reseeded[0] - whole[0]).max() > 1
    assert abs(reseeded[1:] - whole[1:]).max() <= 1


def test_a_part_is_the_same_whichever_others_there_are(inpainter):
    """As after a kill, in a precision in which a batch's neighbors change the rounding."""
    batch = some_batch(6)
    sources = pd.DataFrame({"image_id": list("abcdef"), "y": [0, 1] * 3})
    pixels = dict(zip("abcdef", batch.images, strict=True))
    masks = {name: mask for name, mask in zip("abcdef", batch.masks, strict=True) if name not in "bd"}
    rows = plan(sources, ["x", "y"], images_per_source=2, seed=0, tokens=["bird", "<waterbird>"])
    parts = [rows.iloc[:6], rows.iloc[6:]]
    settings = InpaintSettings(prompt="a photo of a {token}", size=(32, 32), batch_size=3, steps=3)
    low = load_pipeline(
        StableDiffusionInpaintPipeline, Model(Path(inpainter.config._name_or_path), {"name": "low"}), torch.bfloat16
    )
    low.load_textual_inversion({"<waterbird>": torch.ones(random_models.WIDTH)}, token="<waterbird>")

    def made(parts):
        shown = inpaint_parts(
            low, parts, lambda ids: [pixels[one] for one in ids], masks, settings=settings, compute=CPU
        )
        return list(shown)

    both, (last,) = made(parts), made(parts[1:])
    assert both[1] == last
    assert [row.get("why_not") for row in both[0]] == [None, None, NOTHING_FOUND, NOTHING_FOUND, None, None]
    assert [row["image_id"] for part in both for row in part] == rows["image_id"].tolist()
    assert all(row["mask_area"] == pytest.approx(masks[row["source_id"]].mean()) for row in last if "image" in row)


def test_a_picture_that_is_not_finite_is_an_error(inpainter, monkeypatch):
    monkeypatch.setattr(
        inpainter.vae, "decode", lambda latents, **_: (torch.full((len(latents), 3, 32, 32), torch.nan),)
    )
    with pytest.raises(ValueError, match="inpainting: a picture holds a NaN"):
        drawn(inpainter, some_batch(1))


def test_a_picture_is_the_pipelines_own(inpainter):
    """Called by hand, with Pillow's images as a user would."""
    from PIL import Image

    batch = part(some_batch(1, 32, 32), [0])
    ours = drawn(inpainter, batch)[0]
    theirs = inpainter(
        prompt=batch.prompts[0],
        image=Image.fromarray(batch.images[0]),
        mask_image=Image.fromarray(batch.masks[0].astype(np.uint8) * 255),
        height=32,
        width=32,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(10),
    ).images[0]
    assert abs(ours - np.asarray(theirs).astype(int)).max() <= 1


def test_the_learned_token_changes_the_picture(inpainter):
    batch = some_batch(1)
    plain, named = (drawn(inpainter, Batch(batch.images, batch.masks, [prompt], batch.seeds))
                    for prompt in ("a photo of a bird", "a photo of a <waterbird>"))  # fmt: skip
    assert (plain != named).any()
    ids = inpainter.tokenizer("a photo of a <waterbird> bird").input_ids
    assert inpainter.tokenizer.convert_tokens_to_ids("<waterbird>") in ids


def test_thin_masks_survive_a_smaller_size():
    batch = some_batch(1, 64, 64)
    batch.masks[0][:] = False
    batch.masks[0][10:40, 20] = True
    sized = at_size(batch, (32, 32))
    assert sized.masks.sum() >= 15
    assert set(sized.masks.unique().tolist()) == {0.0, 1.0}
    assert sized.sizes == [(64, 64)]
