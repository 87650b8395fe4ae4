"""Edits of CLIP embeddings as pictures, on a tiny random pipeline; tests/workflow/test_faults.py runs the stage."""

import numpy as np
import pytest
import torch
from diffusers import StableUnCLIPImg2ImgPipeline

from benchmarks import random_models
from hsfm.analysis.unclip import UnclipSettings, decode, decode_pairs
from hsfm.core.device import Compute
from hsfm.methods.ddb.diffusion_models import find_model, load_pipeline

CPU = Compute(torch.device("cpu"))
DRAWING = UnclipSettings(
    model={"name": "tiny"}, prompts=("a bird on land", "a bird on water"), steps=3, size=(32, 32), batch_size=2
)


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "unclip"
    random_models.write_unclip(folder)
    return load_pipeline(StableUnCLIPImg2ImgPipeline, find_model(str(folder), pipeline=True), torch.float32)


def embeddings(n: int) -> torch.Tensor:
    return torch.randn(n, random_models.WIDTH, generator=torch.Generator().manual_seed(0))


def pictures(pipeline, rows, seeds, **change) -> np.ndarray:
    return np.stack(decode(pipeline, rows, seeds, DRAWING.model_copy(update=change), CPU)).astype(int)


def test_pairs_share_their_noise(pipeline):
    rows = embeddings(3)
    found = decode_pairs(pipeline, {"before": rows, "after": torch.cat([rows[:2], rows[2:] + 3])}, "abc", DRAWING, CPU)
    same = [(a == b).all() for a, b in zip(found["before"], found["after"], strict=True)]
    assert same == [True, True, False]


def test_embedding_and_noise_make_a_picture_whatever_the_batches_are(pipeline):
    rows = embeddings(3)
    alone = np.concatenate([pictures(pipeline, rows[i : i + 1], [i]) for i in range(3)])
    assert alone.shape == (3, 32, 32, 3)
    together = pictures(pipeline, rows, [0, 1, 2], batch_size=3)
    assert abs(together - alone).max() <= 1
    for other in (pictures(pipeline, rows + 3, [0, 1, 2]), pictures(pipeline, rows, [8, 9, 10])):
        assert (abs(other - alone).max((1, 2, 3)) > 1).all()


def test_a_picture_is_the_pipelines_own(pipeline):
    rows = embeddings(1)
    theirs = pipeline(prompt="", image_embeds=rows, height=32, width=32, num_inference_steps=3, noise_level=7,
                      generator=torch.Generator().manual_seed(4)).images[0]  # fmt: skip
    assert abs(pictures(pipeline, rows, [4], noise_level=7)[0] - np.asarray(theirs).astype(int)).max() <= 1


def test_another_width_is_named(pipeline):
    with pytest.raises(ValueError, match="unclip: the embeddings have 8 numbers, but the pipeline decodes 16"):
        decode(pipeline, torch.zeros(1, 8), [0], DRAWING, CPU)
