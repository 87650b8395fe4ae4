"""The paper's workflow on replicas of its datasets: every loader, transform and rule, and ResNet-50 without weights."""

import json
import re
import subprocess
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from benchmarks import random_models
from hsfm.data.table import read_images
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.head import read_heads
from hsfm.methods.ddb.generated import read_png
from hsfm.models.backbone import read_checkpoint
from tests import replicas
from tests.latex_structure import check_latex
from tests.repository import copy_repository, snakemake

DATASETS = ("waterbirds", "celeba", "metashift", "dominoes")
GROUPS = {"waterbirds": 4, "celeba": 4, "metashift": 2, "dominoes": 4}  # of test


def tiny_ddb(folder: Path) -> dict:
    """DDB with tiny models of random weights, on a few images, of which it keeps all that have an object."""
    models = folder.parent / "models"
    if not models.exists():
        random_models.write_all(models)
    names = ("text_to_image", "inpainting", "detector", "segmenter")
    return {
        "sources_per_class": 3,
        "images_per_source": 1,
        "models": {**{name: {"name": str(models / name)} for name in names}, "local_files_only": True},
        "token": {"images": 2, "size": [16, 16], "initial_word": "bird", "steps": 2},
        "segment": {"prompt": "bird."},
        "inpaint": {"size": [32, 32], "steps": 2, "batch_size": 4},
        "prune": {"attribution": 0.0, "steps": 2},
        "retrain": {"epochs": 1},
    }


def overlay(folder: Path) -> list[str]:
    """config/paper.yaml on small images, and what it takes to be fast."""
    small = {}
    for name in DATASETS:
        small[name] = {
            "images": {"folder": f"data/{name}", "allow_other_counts": True},
            "backbone": {"pretrained": False},
            "erm": {"epochs": 1},
            "embeddings": {"batch_size": 32},
            "hsfm": {"epochs": 2},
            "dfr": {"grid": [1.0, 0.1], "fits": 2},
            "llr": {"grid": [1.0, 0.1]},
            "afr": {"steps": 5},
            "dac": {"epochs": 1},
            "ddb": tiny_ddb(folder) if name == "waterbirds" else None,
        }
        if name != "dominoes":
            small[name]["transform"] = {"resize": [40, 40], "crop": [32, 32]}
            small[name]["augmentation"] = {"random_resized_crop": {"size": [32, 32]}}
    config = {"training_threads": 1, "seeds": [60], "settings": small}
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    return ["--configfile", "config/paper.yaml", "small.yaml", "--"]


@pytest.fixture(scope="module")
def done(tmp_path_factory) -> Path:
    folder = copy_repository(tmp_path_factory.mktemp("paper") / "hsfm")
    for name in DATASETS:
        getattr(replicas, f"write_{name}")(folder / "data" / name)
    snakemake(folder, *overlay(folder), "all")
    return folder


def test_the_table_has_every_method_on_every_dataset(done):
    table = (done / "results/tables/main.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in table[2:9]] == ["ERM", "DFR", "LLR", "AFR", "DaC", "DDB", "HSFM"]
    for name in DATASETS:
        assert f"{name}: worst group | {name}: average" in table[0]
    numbers = pd.read_csv(done / "results/tables/main.csv").set_index(["dataset", "method"])
    assert len(numbers) == 25
    assert ("dominoes", "ddb") not in numbers.index
    assert numbers["worst_group_percent"].between(0, 100).all()
    assert numbers["adjusted_average_percent"].isna().groupby("dataset").all().to_dict() == {
        name: name == "metashift"
        for name in DATASETS  # whose test groups have no training image
    }


def test_ours_stand_beside_the_published_numbers(done):
    found = pd.read_csv(done / "results/tables/published.csv").set_index(["dataset", "method"])
    assert found.groupby("dataset").size().to_dict() == {"celeba": 5, "dominoes": 4, "metashift": 5, "waterbirds": 5}
    assert found.loc[("celeba", "hsfm"), "worst_group_published"] == 89.2
    ours = pd.read_csv(done / "results/tables/main.csv").set_index(["dataset", "method"])
    for metric in ("worst_group", "average"):
        mine = ours[f"{metric}_percent"].reindex(found.index)
        # these two have no rows of DDB here
        assert set(mine[mine.isna()].index) == {("celeba", "ddb"), ("metashift", "ddb")}
        gap = found[f"{metric}_difference"] + found[f"{metric}_published"] - mine
        assert gap.abs().max() < 1e-3
        assert gap.isna().sum() == 2
    for path in (done / "results/tables").glob("*.tex"):
        check_latex(path.read_text())


def test_images_and_features_of_every_dataset_agree(done):
    for name in DATASETS:
        run = done / f"results/{name}/run0"
        table = read_images(done / f"results/{name}/images.parquet")
        test = read_embeddings(run / "erm/embeddings/test.parquet", split="test")
        assert test.features.shape[1] == 2048
        assert test.image_id == tuple(table.split("test")["image_id"])
        assert len(test.group.unique()) == GROUPS[name]
        assert read_checkpoint(run / "erm/backbone.safetensors").name == "resnet50"
        assert read_heads(run / "hsfm/heads.safetensors").head.weight.shape == (1, 2, 2048)


def test_generated_images_have_the_size_of_their_cached_sources(done):
    """Waterbirds' replicas are files of several sizes, resized and cropped for the network."""
    run = done / "results/waterbirds/run0/ddb"
    index = pd.read_parquet(done / "results/waterbirds/decoded.parquet").set_index("image_id")
    generated, pruned = (pd.read_parquet(run / f"{name}.parquet") for name in ("generated", "pruned"))
    assert len(generated) == len(pruned) == 6
    made = generated[generated["image"].notna()]
    assert len(made)
    for row in made.itertuples():
        size = tuple(index.loc[row.source_id, ["height", "width"]])
        assert read_png(row.image).shape[:2] == read_png(row.mask).shape == size
    assert pruned.loc[generated["image"].notna(), "attribution"].between(0, 1).all()
    assert read_heads(run / "seed60/heads.safetensors").head.weight.shape == (1, 2, 2048)


def of_metashift(folder: Path, **settings) -> list[str]:
    """ERM on MetaShift alone."""
    config = {"datasets": ["metashift"], "methods": ["erm"], "settings": {"metashift": settings}}
    (folder / "alone.yaml").write_text(yaml.safe_dump(config))
    return ["--configfile", "config/paper.yaml", "small.yaml", "alone.yaml"]


def features(folder: Path) -> dict[str, torch.Tensor]:
    run = folder / "results/metashift/run0/erm/embeddings"
    return {split: read_embeddings(run / f"{split}.parquet").features for split in ("train", "val", "test")}


def test_images_are_decoded_once_at_the_size_that_training_needs(done):
    for name in ("waterbirds", "celeba", "metashift"):
        table = read_images(done / f"results/{name}/images.parquet")
        index = pq.read_table(done / f"results/{name}/decoded.parquet")
        assert index["image_id"].to_pylist() == table.rows["image_id"].tolist()
        assert (index["height"].to_numpy() <= table.rows["height"].to_numpy(int)).all()
        rule = json.loads(index.schema.metadata[b"decode_size"])
        assert rule == {"resize": [40, 40], "crop": {"size": [32, 32], "scale": [0.7, 1.0], "ratio": [0.75, 4 / 3]}}
    assert not (done / "results/dominoes/decoded.npy").exists(), "it is an array already"
    assert "Nothing to be done" in snakemake(done, *overlay(done)[:-1], "--dry-run").stdout


def test_files_and_a_cache_of_their_own_size_end_in_the_same_embeddings(tmp_path):
    """Through ERM training and embedding, each in a clone of its own."""
    found = {}
    for name, settings in {"files": {"pixels": "files"}, "cached": {"decode_size": "original"}}.items():
        folder = copy_repository(tmp_path / name)
        replicas.write_metashift(folder / "data/metashift")
        overlay(folder)
        snakemake(folder, *of_metashift(folder, **settings))
        assert (folder / "results/metashift/decoded.npy").exists() == (name == "cached")
        found[name] = features(folder)
    for split, cached in found["cached"].items():
        torch.testing.assert_close(cached, found["files"][split], rtol=0, atol=1e-5)


def test_a_damaged_cache_stops_the_job_with_the_command_that_makes_it_anew(done, tmp_path):
    folder = copy_repository(tmp_path / "hsfm")
    replicas.write_metashift(folder / "data/metashift")
    overlay(folder)
    arguments = of_metashift(folder)
    snakemake(folder, *arguments)
    before, pixels = features(folder), (folder / "results/metashift/decoded.npy")
    sound = pixels.read_bytes()
    pixels.write_bytes(sound[:-7])
    again = [*arguments, "--forcerun", "extract_embeddings"]
    out = snakemake(folder, *again, check=False).stdout
    (said,) = {line for line in out.splitlines() if line.startswith("ERROR: ")}
    command = "rm results/metashift/decoded.npy results/metashift/decoded.parquet"
    assert re.fullmatch(rf"ERROR: results/metashift/decoded.npy: not a readable .*: {command}, .*", said)
    subprocess.run(command.split(), cwd=folder, check=True)
    snakemake(folder, *again)
    assert pixels.read_bytes() == sound
    assert all(torch.equal(a, before[split]) for split, a in features(folder).items())


def test_the_unreadable_stop_the_stage_or_are_left_out(done, tmp_path):
    folder = copy_repository(tmp_path / "hsfm")
    replicas.write_waterbirds(folder / "data/waterbirds")
    names = pd.read_csv(folder / "data/waterbirds/metadata.csv")["img_filename"]
    for name in names[[3, 5]]:
        path = folder / "data/waterbirds" / name
        path.write_bytes(path.read_bytes()[:200])
    arguments = [*overlay(folder), "results/waterbirds/images.parquet"]
    stopped = snakemake(folder, *arguments, check=False)
    assert stopped.returncode != 0
    (error,) = [line for line in stopped.stdout.splitlines() if line.startswith("ERROR: ")]
    assert f"data/waterbirds: cannot read 2 of {len(names)} images: {names[3]}: " in error
    assert "on_bad_image: skip leaves such images out" in error
    config = yaml.safe_load((folder / "small.yaml").read_text())
    config["settings"]["waterbirds"]["images"]["on_bad_image"] = "skip"
    (folder / "small.yaml").write_text(yaml.safe_dump(config))
    snakemake(folder, *arguments)
    table = read_images(folder / "results/waterbirds/images.parquet")
    assert len(table.rows) == len(names) - 2
    unreadable = pd.read_csv(folder / "results/waterbirds/unreadable_images.csv")
    assert sorted(unreadable["path"]) == sorted(names[[3, 5]])


def test_the_plan_needs_no_data(tmp_path):
    folder = copy_repository(tmp_path / "hsfm")
    plan = snakemake(folder, "--dry-run", "--configfile", "config/paper.yaml").stdout
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", plan[plan.rindex("Job stats:") :], re.MULTILINE))
    assert jobs["download_waterbirds"] == jobs["download_dominoes"] == "1"
    assert jobs["train_erm"] == jobs["train_on_share"] == "4"
    images = yaml.safe_load((folder / "config/paper.yaml").read_text())["settings"]["waterbirds"]["images"]
    second = {"base": "waterbirds", "images": images, "backbone": {"name": "resnet18"}, "ddb": None}
    both = {"datasets": ["waterbirds", "waterbirds18"], "settings": {"waterbirds18": second}}
    (folder / "both.yaml").write_text(yaml.safe_dump(both))
    plan = snakemake(folder, "--dry-run", "--configfile", "config/paper.yaml", "both.yaml").stdout
    jobs = dict(re.findall(r"^(\w+) +(\d+)$", plan[plan.rindex("Job stats:") :], re.MULTILINE))
    assert (jobs["download_waterbirds"], jobs["list_images"], jobs["train_erm"]) == ("1", "2", "2")
    for name, advice in (("celeba", "img_align_celeba"), ("metashift", "MetaDatasetCatDog")):
        target = f"results/{name}/listed.parquet"
        failed = snakemake(folder, "--configfile", "config/paper.yaml", "--", target, check=False)
        assert failed.returncode != 0
        (error,) = [line for line in failed.stdout.splitlines() if line.startswith("ERROR: ")]
        assert advice in error


def test_the_data_cards(done):
    snakemake(done, *overlay(done), "describe")
    card = (done / "results/metashift/card.md").read_text()
    assert "| cat | shelf | 0 |" in card
    assert "Agreement, the share of images whose attribute is not rarer" in card
    for name in DATASETS:
        counts = pd.read_csv(done / f"results/{name}/counts.csv")
        assert counts["all"].sum() == len(read_images(done / f"results/{name}/images.parquet").rows)
