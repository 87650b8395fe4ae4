"""Edits of CLIP embeddings as pictures, on a tiny random pipeline."""

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import StableUnCLIPImg2ImgPipeline

from benchmarks import random_models
from hsfm.analysis.unclip import UnclipSettings, as_table, decode, decoded_pictures
from hsfm.core.device import Compute
from hsfm.data.table import ImageTable
from hsfm.methods.ddb.diffusion_models import find_model, load_pipeline
from hsfm.methods.ddb.generated import seed_of

CPU = Compute(torch.device("cpu"))
DRAWING = UnclipSettings(
    model={"name": "tiny"}, prompts=("a bird on land", "a bird on water"), steps=3, size=(32, 32), batch_size=2
)
NAMES = ImageTable(pd.DataFrame(), "toy", ("bird", "fish"), ("land", "water"))


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "unclip"
    random_models.write_unclip(folder)
    return load_pipeline(StableUnCLIPImg2ImgPipeline, find_model(str(folder), pipeline=True), torch.float32)


def embeddings(n: int) -> torch.Tensor:
    return torch.randn(n, random_models.WIDTH, generator=torch.Generator().manual_seed(0))


def pictures(pipeline, rows, names, **change) -> np.ndarray:
    return np.stack(decode(pipeline, {"": rows}, names, DRAWING.model_copy(update=change), CPU)[""]).astype(int)


def test_pairs_share_their_noise(pipeline):
    rows = embeddings(3)
    found = decode(pipeline, {"before": rows, "after": torch.cat([rows[:2], rows[2:] + 3])}, "abc", DRAWING, CPU)
    same = [(a == b).all() for a, b in zip(found["before"], found["after"], strict=True)]
    assert same == [True, True, False]


def test_embedding_and_noise_make_a_picture_whatever_the_batches_are(pipeline):
    rows = embeddings(3)
    alone = np.concatenate([pictures(pipeline, rows[i : i + 1], name) for i, name in enumerate("abc")])
    assert alone.shape == (3, 32, 32, 3)
    together = pictures(pipeline, rows, "abc", batch_size=3)
    assert abs(together - alone).max() <= 1
    for other in (pictures(pipeline, rows + 3, "abc"), pictures(pipeline, rows, "def")):
        assert (abs(other - alone).max((1, 2, 3)) > 1).all()


def test_a_picture_is_the_pipelines_own(pipeline):
    rows = embeddings(1)
    theirs = pipeline(prompt="", image_embeds=rows, height=32, width=32, num_inference_steps=3, noise_level=7,
                      generator=torch.Generator().manual_seed(seed_of(0, "a"))).images[0]  # fmt: skip
    assert abs(pictures(pipeline, rows, "a", noise_level=7)[0] - np.asarray(theirs).astype(int)).max() <= 1


def test_another_width_is_named(pipeline):
    with pytest.raises(ValueError, match="unclip: the embeddings have 8 numbers, but the pipeline decodes 16"):
        decode(pipeline, {"": torch.zeros(1, 8)}, "a", DRAWING, CPU)


def test_what_clip_takes_the_pictures_for():
    edits = pd.DataFrame(
        {"seed": 0, "image_id": ["i0", "i1"], "y": [0, 1], "attribute": pd.array([1, None], "Int32"), "length": 2.0}
    )
    pictures = {
        when: [np.full((4, 5, 3), shade + row, np.uint8) for row in range(2)]
        for when, shade in (("before", 10), ("after", 20))
    }
    probabilities = {"before": torch.tensor([[0.2, 0.8], [0.6, 0.4]]), "after": torch.tensor([[0.9, 0.1], [0.7, 0.3]])}
    table = as_table(edits, pictures, probabilities)
    assert table["moved"].to_pylist() == [True, False]
    originals = [np.full((9, 9, 3), row, np.uint8) for row in range(2)]
    first, second = decoded_pictures(table, NAMES, lambda ids: [originals[int(one[1:])] for one in ids])
    assert (first["name"], second["name"]) == ("bird,\nwater", "fish,\nunknown")
    assert (first["before"][1], first["after"][1], first["moved"]) == ("water, 80 %", "land, 90 %", True)
    assert (second["before"][1], second["after"][1], second["moved"]) == ("land, 60 %", "land, 70 %", False)
    for number, row in enumerate((first, second)):
        np.testing.assert_array_equal(row["original"], originals[number])
        for when in ("before", "after"):
            np.testing.assert_array_equal(row[when][0], pictures[when][number])
