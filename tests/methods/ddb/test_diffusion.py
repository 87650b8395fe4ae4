"""Textual inversion, segmentation and inpainting on tiny random models, loaded by the real code from folders."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionInpaintPipeline, StableDiffusionPipeline
from PIL import Image
from torch.nn.functional import mse_loss
from transformers import SamModel

from benchmarks import random_models
from hsfm.core.device import Compute, ComputeSettings
from hsfm.core.files import write_safetensors
from hsfm.methods.ddb import textual_inversion
from hsfm.methods.ddb.diffusion_models import (
    LoadingSettings,
    Model,
    find_model,
    load_part,
    load_pipeline,
    to_device,
)
from hsfm.methods.ddb.generated import NOTHING_FOUND, plan
from hsfm.methods.ddb.inpaint import InpaintSettings, in_size, inpaint, inpaint_parts, pipeline_input
from hsfm.methods.ddb.segment import Segmenter, SegmentSettings
from hsfm.methods.ddb.textual_inversion import TokenSettings, add_tokens, learn_token, token_of

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


def test_a_folder_is_told_by_what_it_holds(folder, tmp_path):
    first, copy = local(folder, "segmenter").origin, tmp_path / "copy"
    assert first["commit"].startswith("folder ")
    shutil.copytree(folder / "segmenter", copy)
    assert find_model(str(copy), pipeline=False).origin["commit"] == first["commit"], "wherever it lies"
    with open(copy / "model.safetensors", "ab") as file:
        file.write(b"0")
    assert find_model(str(copy), pipeline=False).origin["commit"] != first["commit"]
    with pytest.raises(ValueError, match="is a folder, which has no revision"):
        find_model(str(copy), revision="main", pipeline=False)
    with pytest.raises(ValueError, match=r"model .*segmenter: cannot be loaded as StableDiffusionPipeline"):
        load_pipeline(StableDiffusionPipeline, local(folder, "segmenter"), torch.float32)


def test_names_are_found_among_what_was_downloaded_and_their_commit_is_known(folder, tmp_path, monkeypatch):
    """The hub's cache, laid out as its client does."""
    for name, of in (("sam", "segmenter"), ("sd", "inpainting")):
        cached = tmp_path / f"models--someone--{name}"
        shutil.copytree(folder / of, cached / "snapshots" / COMMIT)
        (cached / "refs").mkdir()
        (cached / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for revision in (None, "main", COMMIT):
        found = find_model("someone/sam", revision=revision, local_files_only=True, pipeline=False)
        assert found.origin == {"name": "someone/sam", "commit": COMMIT}
    assert isinstance(load_part(SamModel, found, use_safetensors=True), SamModel)
    found = find_model("someone/sd", local_files_only=True, pipeline=True)
    assert found.origin == {"name": "someone/sd", "commit": COMMIT}
    assert load_pipeline(StableDiffusionInpaintPipeline, found, torch.float32).unet.config.in_channels == 9
    with pytest.raises(ValueError, match="model someone/sam, revision v2: neither a folder nor found among what was"):
        find_model("someone/sam", revision="v2", local_files_only=True, pipeline=False)
    with pytest.raises(ValueError, match=r"model some/one: neither a folder nor found .*; run once on a machine with"):
        find_model("some/one", local_files_only=True, pipeline=True)


def test_offload_is_for_gpus_and_slicing_for_all():
    gpu, cpu = torch.device("cuda:0"), torch.device("cpu")
    for device, offload, expected in (
        (gpu, True, ("enable_model_cpu_offload", (), {"device": gpu})),
        (gpu, False, ("to", (gpu,), {})),
        (cpu, True, ("to", (cpu,), {})),
    ):
        pipeline = Mock()
        loading = LoadingSettings(cpu_offload=offload, attention_slicing=offload)
        to_device(pipeline, Compute(device, ComputeSettings(precision="float32")), loading)
        sliced = [("enable_attention_slicing", (), {})] if offload else []
        assert pipeline.mock_calls == [*sliced, expected]


LEARNING = {"initial_word": "bird", "steps": 6, "batch_size": 2, "accumulation": 2, "lr": 0.01}


def learned_by(pipeline, images, *, resume=None, **changed):
    """The embedding and the history."""
    settings = TokenSettings(**{**LEARNING, **changed})
    return learn_token(pipeline, images, token="<waterbird>", settings=settings, compute=CPU, resume=resume)


def text_to_image(folder: Path, dtype: torch.dtype = torch.float32) -> StableDiffusionPipeline:
    return load_pipeline(StableDiffusionPipeline, local(folder, "text_to_image"), dtype)


def prepared(folder: Path, images: torch.Tensor, **changed):
    """A pipeline that has the token, its place in the embedding table, and a training of it."""
    pipeline = text_to_image(folder)
    place = textual_inversion._add_token(pipeline, "<waterbird>", "bird")
    settings = TokenSettings(**{**LEARNING, **changed})
    return pipeline, place, textual_inversion._Training(pipeline, images, place, settings, CPU)


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
    embedding, history = learned_by(pipeline, images)
    after = states(pipeline)
    (grown,) = (key for key in before if key.endswith("token_embedding.weight"))
    assert all(torch.equal(after[key], value) for key, value in before.items() if key != grown)
    assert torch.equal(after[grown][:words], before[grown])
    assert len(pipeline.tokenizer) == words + 1
    start = table[pipeline.tokenizer("bird", add_special_tokens=False).input_ids[0]]
    assert 0 < (embedding - start).abs().max() < 6 * 2 * 0.01
    assert history["step"].tolist() == [1, 2, 3, 4, 5, 6]
    assert all(parameter.grad is None for parameter in pipeline.text_encoder.parameters())


def test_its_gradient_is_that_of_the_row_of_the_whole_embedding_table(folder, images):
    """One step, against autograd through the table of a pipeline that has the token, with the same draws."""
    embedding, history = learned_by(text_to_image(folder), images, steps=1)
    pipeline, place, training = prepared(folder, images)
    table = pipeline.text_encoder.get_input_embeddings().weight.requires_grad_()
    noise = DDPMScheduler.from_config(pipeline.scheduler.config)
    losses = []
    for _ in range(2):
        clean, ids, eps, time = training.draw()
        assert (ids == place).any(1).all(), "every prompt holds the token"
        # the model's networks predict velocity
        target = noise.get_velocity(clean, eps, time)
        predicted = pipeline.unet(noise.add_noise(clean, eps, time), time, pipeline.text_encoder(ids)[0]).sample
        losses.append(mse_loss(predicted, target) / 2)
        losses[-1].backward()
    row = torch.nn.Parameter(table[place].detach().clone())
    row.grad = table.grad[place].clone()
    torch.optim.AdamW([row], lr=0.01, weight_decay=0.01).step()
    torch.testing.assert_close(embedding, row.detach())
    assert history["loss"].item() == pytest.approx(sum(float(loss.detach()) for loss in losses), rel=1e-5)


def test_latents_are_of_images_and_their_mirror_images(folder, images):
    pipeline, _, training = prepared(folder, images[1:2])
    with torch.no_grad():
        both = [pipeline.vae.encode(x / 127.5 - 1).latent_dist for x in (images[1:2], images[1:2].flip(-1))]
    for row, expected in enumerate(both):
        torch.testing.assert_close(training.mean[row], expected.mean[0])
        torch.testing.assert_close(training.deviation[row], expected.std[0])


def test_a_token_that_was_interrupted_is_the_same(folder, images, tmp_path, monkeypatch):
    monkeypatch.setattr(textual_inversion, "SAVE_EVERY", 2)
    expected = learned_by(text_to_image(folder), images)
    resume, step, calls = tmp_path / "resume.pt", textual_inversion._Training.step, []

    def stop_in_the_fifth_step(training):
        calls.append(None)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return step(training)

    monkeypatch.setattr(textual_inversion._Training, "step", stop_in_the_fifth_step)
    with pytest.raises(KeyboardInterrupt):
        learned_by(text_to_image(folder), images, resume=resume)
    again = learned_by(text_to_image(folder), images, resume=resume)
    assert len(calls) == 7, "the last two steps"
    assert torch.equal(again[0], expected[0])
    assert again[1].equals(expected[1])


def test_low_precision_keeps_the_row_in_float32(folder, images):
    pipeline = text_to_image(folder, torch.bfloat16)
    assert {part.dtype for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder)} == {torch.bfloat16}
    (embedding, low), (_, exact) = (learned_by(one, images, steps=3) for one in (pipeline, text_to_image(folder)))
    assert embedding.dtype == torch.float32
    assert low["loss"].mean() == pytest.approx(exact["loss"].mean(), rel=0.05)


def test_what_cannot_be_learned_is_said(folder, images):
    with pytest.raises(ValueError, match=r"initial_word: 'birds' is bir, d, s</w> to the tokenizer, expected one"):
        learned_by(text_to_image(folder), images, initial_word="birds")
    pipeline = text_to_image(folder)
    pipeline.tokenizer.add_tokens("<waterbird>")
    with pytest.raises(ValueError, match="token: '<waterbird>' is known to the tokenizer already"):
        learned_by(pipeline, images)
    with pytest.raises(ValueError, match="the loss is no longer finite after step 3; lower lr"):
        learned_by(text_to_image(folder), images, lr=1e30, steps=3)


def test_a_word_is_the_class_name_where_that_says_enough():
    names = ["Water Bird", "land-bird", "!?", "a b", "a-b"]
    assert [token_of(label, names) for label in range(5)] == [
        "<water-bird>", "<land-bird>", "<-class2>", "<a-b-class3>", "<a-b-class4>"
    ]  # fmt: skip


def test_a_pipeline_learns_words_of_its_own_width(tmp_path):
    known, table = {}, torch.nn.Embedding(3, 4)
    pipeline = SimpleNamespace(
        text_encoder=SimpleNamespace(get_input_embeddings=lambda: table),
        load_textual_inversion=lambda words, token: known.update(words),
    )
    files = [tmp_path / f"{name}.safetensors" for name in "xy"]
    for name, path in zip("xy", files, strict=True):
        metadata = {"token": f"<{name}>", "model": json.dumps({"name": "base"})}
        write_safetensors(path, {"embedding": torch.full((4,), float(ord(name)))}, metadata)
    assert add_tokens(pipeline, files) == (["<x>", "<y>"], {"name": "base"})
    assert {word: float(row[0]) for word, row in known.items()} == {"<x>": 120.0, "<y>": 121.0}
    write_safetensors(files[1], {"embedding": torch.zeros(5)}, metadata)
    with pytest.raises(ValueError, match=r"y.safetensors: has 5 numbers, .* has 4; it was learned on base"):
        add_tokens(pipeline, files)


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


def test_nothing_found_is_no_mask(segmenter):
    images = pictures(2, 48, 40)
    for found in segmenter(images, SegmentSettings(prompt="bird.", box_threshold=1.0)):
        assert found.mask is None
        assert found.boxes.shape == (0, 4)


@pytest.fixture(scope="module")
def inpainter(folder):
    return load_pipeline(StableDiffusionInpaintPipeline, local(folder, "inpainting"), torch.float32)


def some_images(n: int, height: int = 24, width: int = 40) -> dict[str, list]:
    """Arguments of `pipeline_input`."""
    masks = [np.zeros((height, width), bool) for _ in range(n)]
    for number, mask in enumerate(masks):
        mask[4 + number : 16, 8:30] = True
    prompts = [f"a photo of a bird {i}" for i in range(n)]
    return {
        "images": pictures(n, height, width), "masks": masks, "prompts": prompts, "seeds": list(range(10, 10 + n))
    }  # fmt: skip


def drawn(pipeline, *batches: dict[str, list]) -> np.ndarray:
    settings = InpaintSettings(prompt="{token}", size=(32, 32), steps=4)
    made = inpaint(pipeline, [pipeline_input(**one, size=(32, 32)) for one in batches], settings=settings, compute=CPU)
    size = batches[0]["images"][0].shape[:2]
    return np.array([in_size(picture, size) for of_batch in made for picture in of_batch]).astype(int)


def test_neither_order_nor_batches_change_a_picture(inpainter):
    batch, order = some_images(5), [3, 1, 4, 0, 2]
    whole = drawn(inpainter, batch)
    assert whole.shape == (5, 24, 40, 3)
    parts = ({name: [values[row] for row in rows] for name, values in batch.items()} for rows in (order[:2], order[2:]))
    assert abs(drawn(inpainter, *parts) - whole[order]).max() <= 1, "but for rounding"
    reseeded = drawn(inpainter, {**batch, "seeds": [99, *batch["seeds"][1:]]})
    assert abs(reseeded[0] - whole[0]).max() > 1
    assert abs(reseeded[1:] - whole[1:]).max() <= 1


def test_a_part_is_the_same_whichever_others_there_are(folder):
    """As after a kill, in a precision in which a batch's neighbors change the rounding."""
    batch = some_images(6)
    sources = pd.DataFrame({"image_id": list("abcdef"), "y": [0, 1] * 3})
    pixels = dict(zip("abcdef", batch["images"], strict=True))
    masks = {name: mask for name, mask in zip("abcdef", batch["masks"], strict=True) if name not in "bd"}
    rows = plan(sources, ["x", "y"], images_per_source=2, seed=0, tokens=["bird", "animal"])
    parts = [rows.iloc[:6], rows.iloc[6:]]
    settings = InpaintSettings(prompt="a photo of a {token}", size=(32, 32), batch_size=3, steps=3)
    low = load_pipeline(StableDiffusionInpaintPipeline, local(folder, "inpainting"), torch.bfloat16)

    def made(parts):
        return list(
            inpaint_parts(low, parts, lambda ids: [pixels[one] for one in ids], masks, settings=settings, compute=CPU)
        )

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
        drawn(inpainter, some_images(1))


def test_a_picture_is_the_pipelines_own(inpainter):
    """Called by hand, with Pillow's images as a user would."""
    batch = some_images(1, 32, 32)
    theirs = inpainter(
        prompt=batch["prompts"][0],
        image=Image.fromarray(batch["images"][0]),
        mask_image=Image.fromarray(batch["masks"][0]),
        height=32,
        width=32,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(10),
    ).images[0]
    assert abs(drawn(inpainter, batch)[0] - np.asarray(theirs).astype(int)).max() <= 1


def test_thin_masks_survive_a_smaller_size():
    batch = some_images(1, 64, 64)
    batch["masks"][0][:] = False
    batch["masks"][0][10:40, 20] = True
    masks = pipeline_input(**batch, size=(32, 32))["mask_image"]
    assert masks.sum() >= 15
    assert set(masks.unique().tolist()) == {0.0, 1.0}
