"""Edits of CLIP embeddings as pictures: the decoder on a tiny random pipeline, and the stage through Snakemake."""

import json
import re
import shutil
from dataclasses import replace
from io import BytesIO

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from diffusers import StableUnCLIPImg2ImgPipeline
from PIL import Image

from benchmarks import random_models
from hsfm.analysis.edits import largest_of_each_group
from hsfm.analysis.unclip import UnclipSettings, decode, decode_pairs
from hsfm.core.device import Compute
from hsfm.features.embeddings import read_embeddings
from hsfm.features.standardize import Standardization
from hsfm.methods.ddb.diffusion_models import find_model, load_pipeline
from hsfm.methods.hsfm.support import read_support, write_support
from hsfm.models.backbone import read_checkpoint
from hsfm.models.clip import transform_named
from tests.repository import copy_repository, snakemake

CPU = Compute(torch.device("cpu"))
RUN = "results/clipbirds/run0"
DRAWING = UnclipSettings(
    model={"name": "tiny"}, prompts=("a bird on land", "a bird on water"), steps=3, size=(32, 32), batch_size=2
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    random_models.write_unclip(folder / "unclip")
    random_models.write_clip(folder / "clip")
    return folder


@pytest.fixture(scope="module")
def pipeline(models):
    return load_pipeline(StableUnCLIPImg2ImgPipeline, find_model(str(models / "unclip"), pipeline=True), torch.float32)


def embeddings(n: int) -> torch.Tensor:
    return torch.randn(n, random_models.WIDTH, generator=torch.Generator().manual_seed(0))


def pictures(pipeline, rows, seeds, **change) -> np.ndarray:
    return np.stack(
        list(decode(pipeline, rows, seeds, settings=DRAWING.model_copy(update=change), compute=CPU))
    ).astype(int)


def test_pairs_share_their_noise(pipeline):
    rows = embeddings(3)
    found = decode_pairs(pipeline, {"before": rows, "after": rows}, ["a", "b", "c"], DRAWING, CPU)
    for before, after in zip(found["before"], found["after"], strict=True):
        np.testing.assert_array_equal(before, after)
    moved = decode_pairs(pipeline, {"before": rows, "after": rows + 3}, ["a", "b", "c"], DRAWING, CPU)
    np.testing.assert_array_equal(np.stack(moved["before"]), np.stack(found["before"]))
    assert all((a != b).any() for a, b in zip(moved["before"], moved["after"], strict=True))


def test_equal_embeddings_with_equal_noise_give_equal_pictures(pipeline):
    rows = embeddings(3)
    found = pictures(pipeline, torch.cat([rows, rows]), [5, 6, 7] * 2, batch_size=3)
    assert found.shape == (6, 32, 32, 3)
    np.testing.assert_array_equal(found[:3], found[3:])
    moved = pictures(pipeline, rows + 3, [5, 6, 7])
    assert (abs(moved - found[:3]).max((1, 2, 3)) > 1).all(), "the embedding is seen"
    other = pictures(pipeline, rows, [8, 9, 10])
    assert (abs(other - found[:3]).max((1, 2, 3)) > 1).all()


def test_batches_do_not_change_a_picture(pipeline):
    rows = embeddings(3)
    alone = np.concatenate([pictures(pipeline, rows[i : i + 1], [i]) for i in range(3)])
    assert abs(pictures(pipeline, rows, [0, 1, 2], batch_size=3) - alone).max() <= 1


def test_a_picture_is_the_pipelines_own(pipeline):
    rows = embeddings(1)
    theirs = pipeline(prompt="", image_embeds=rows, height=32, width=32, num_inference_steps=3, noise_level=7,
                      generator=torch.Generator().manual_seed(4)).images[0]  # fmt: skip
    assert abs(pictures(pipeline, rows, [4], noise_level=7)[0] - np.asarray(theirs).astype(int)).max() <= 1


def test_another_width_is_named(pipeline):
    with pytest.raises(ValueError, match="unclip: the embeddings have 8 numbers, but the pipeline decodes 16"):
        list(decode(pipeline, torch.zeros(1, 8), [0], settings=DRAWING, compute=CPU))


def test_the_longest_edits_of_each_group():
    rows = pd.DataFrame({"y": [0, 0, 0, 1, 1], "attribute": pd.array([0, 0, 1, None, None], "Int32"),
                         "length": [1.0, 3.0, 2.0, 5.0, 6.0]})  # fmt: skip
    assert largest_of_each_group(rows, 1).index.tolist() == [1, 2, 4]
    assert largest_of_each_group(rows, 5).index.tolist() == [1, 0, 2, 4, 3]


def test_standardized_features_come_back():
    standardization = Standardization(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]))
    raw = torch.tensor([[3.0, 2.0], [-1.0, 2.0]])
    torch.testing.assert_close(standardization.undo(standardization.apply(raw)), raw)


# The stage ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def decoded(models, tmp_path_factory):
    """The workflow on minibirds with a tiny CLIP as backbone and a tiny unCLIP as decoder."""
    folder = copy_repository(tmp_path_factory.mktemp("clip") / "hsfm")
    own = {
        "base": "minibirds",
        "images": {"source": "minibirds", "sizes": {"train": 80, "val": 48, "test": 48}, "image_size": 40,
                   "hardness": 0.15, "agreement": {"train": 0.8, "val": 0.5, "test": 0.5}, "seed": 0},
        "backbone": {"name": f"open_clip:{models / 'clip'}", "pretrained": True, "train": False},
        "transform": transform_named(str(models / "clip")),
        "unclip": {"model": {"name": str(models / "unclip"), "revision": None}, "local_files_only": True,
                   "precision": "auto", "attention_slicing": False, "cpu_offload": False, "rows_per_group": 1,
                   "prompts": ["a bird on land", "a bird on water"], "size": [32, 32], "steps": 2, "guidance": 10,
                   "noise_level": 0, "batch_size": 3, "seed": 0},
    }  # fmt: skip
    config = {"datasets": ["clipbirds"], "methods": ["erm", "hsfm"], "settings": {"clipbirds": own}}
    (folder / "clip.yaml").write_text(yaml.safe_dump(config))
    snakemake(folder, "--configfile", "config/minimal.yaml", "clip.yaml", "--", "all")
    return folder


def test_edits_of_clip_embeddings_end_in_pictures(decoded, models):
    table = pq.read_table(decoded / RUN / "hsfm/decoded.parquet").to_pylist()
    edits = pd.read_parquet(decoded / RUN / "hsfm/edits.parquet")
    first = edits[edits["seed"] == edits["seed"].iloc[0]]
    groups = first.groupby(["y", "attribute"])
    assert [(row["y"], row["attribute"]) for row in table] == list(groups.groups)
    for row in table:
        own = groups.get_group((row["y"], row["attribute"]))
        assert row["length"] == own["length"].max()
        assert sum(row["probabilities_after"]) == pytest.approx(1)
        assert row["attribute_after"] == int(np.argmax(row["probabilities_after"]))
        assert row["moved"] == (row["attribute_before"] != row["attribute_after"])
        assert Image.open(BytesIO(row["picture_after"])).size == (32, 32)
        assert (row["picture_before"] != row["picture_after"]) == (row["length"] > 0)
    assert (decoded / "results/figures/clipbirds/unclip.png").read_bytes().startswith(b"\x89PNG")
    details = read_checkpoint(decoded / RUN / "erm/backbone.safetensors").metadata
    assert json.loads(details["transform"]) == {
        "resize": [32], "crop": [32, 32], "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28],
        "interpolation": "bicubic",
    }  # fmt: skip
    train = read_embeddings(decoded / RUN / "erm/embeddings/train.parquet")
    assert train.features.shape == (80, random_models.WIDTH)
    assert "Nothing to be done" in snakemake(
        decoded, "--configfile", "config/minimal.yaml", "clip.yaml", "--dry-run"
    ).stdout  # fmt: skip


def test_an_edit_of_no_length_changes_no_picture(decoded, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(decoded, folder)
    path = folder / RUN / "hsfm/support.parquet"
    support = read_support(path)
    unedited = replace(support, after=support.before)
    write_support(path, unedited, dataset="clipbirds", class_names=("land bird", "water bird"))
    arguments = ["--configfile", "config/minimal.yaml", "clip.yaml", "--allowed-rules", "measure_edits", "decode_edits",
                 "--forcerun", "measure_edits", "--", f"{RUN}/hsfm/decoded.parquet"]  # fmt: skip
    snakemake(folder, *arguments)
    for row in pq.read_table(folder / RUN / "hsfm/decoded.parquet").to_pylist():
        assert row["length"] == 0
        assert row["picture_before"] == row["picture_after"]
        assert not row["moved"]


def test_the_overlay_for_waterbirds_is_sound(decoded):
    out = snakemake(decoded, "--configfile", "config/paper.yaml", "config/clip.yaml", "--dry-run").stdout
    assert re.search(r"^decode_edits +1$", out, re.MULTILINE)
    assert re.search(r"^take_backbone +1$", out, re.MULTILINE)
    assert "train_erm" not in out


def test_another_transform_than_clips_is_an_error(decoded, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(decoded, folder)
    config = yaml.safe_load((folder / "clip.yaml").read_text())
    own = {"resize": [32], "crop": [32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.27, 0.26, 0.28]}
    config["settings"]["clipbirds"]["transform"] = {**own, "interpolation": "bicubic"}
    (folder / "clip.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(folder, "--configfile", "config/minimal.yaml", "clip.yaml", "--", "all", check=False)
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("ERROR: ")]
    assert "but this CLIP model was trained on images after {'resize': [32], 'crop': [32, 32], 'mean': [0.48" in error
    config["settings"]["clipbirds"]["backbone"]["train"] = True
    (folder / "clip.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(folder, "--configfile", "config/minimal.yaml", "clip.yaml", "--dry-run", check=False)
    assert "settings/clipbirds/unclip: decodes CLIP's own embeddings; set backbone/pretrained to true" in done.stdout
    config["settings"]["clipbirds"]["transform"] = "model"
    config["settings"]["clipbirds"]["backbone"] = {"name": "small_resnet", "pretrained": False, "train": True}
    (folder / "clip.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(folder, "--configfile", "config/minimal.yaml", "clip.yaml", "--dry-run", check=False)
    assert (
        "settings/clipbirds/transform: model went; write what `python -m hsfm.models.clip small_resnet`" in done.stdout
    )
    config["settings"]["clipbirds"]["transform"] = own
    config["settings"]["clipbirds"]["backbone"] = {"name": "small_resnet", "pretrained": False, "train": True}
    (folder / "clip.yaml").write_text(yaml.safe_dump(config))
    done = snakemake(folder, "--configfile", "config/minimal.yaml", "clip.yaml", "--dry-run", check=False)
    assert "settings/clipbirds/unclip: decodes embeddings of CLIP; set backbone/name to open_clip:NAME" in done.stdout
