"""The paper's workflow on replicas of its datasets: every loader, transform and rule, and a network without weights."""

import json
import re
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml

from hsfm.data.table import read_images
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.head import read_heads
from hsfm.methods.ddb.generated import read_png
from hsfm.models.backbone import read_checkpoint
from tests import replicas
from tests.latex_structure import check_latex
from tests.repository import copy_repository, planned_by, rules_planned, snakemake

PAPER = ["--configfile", "config/paper.yaml"]
DATASETS = ("waterbirds", "celeba", "metashift", "dominoes")
GROUPS = {"waterbirds": 4, "celeba": 4, "metashift": 2, "dominoes": 4}  # of test
TABLES = ("results/tables/main.md", "results/tables/published.md")


def small(name: str, ddb: dict | None) -> dict:
    """Settings under which a dataset's replica is fast; Waterbirds has every method, the others those on embeddings."""
    settings = {
        "images": {"folder": f"data/{name}", "allow_other_counts": True},
        "backbone": {"name": "resnet18", "pretrained": False},
        "erm": {"epochs": 1, "on_share": {"epochs": 1} if ddb else None},
        "embeddings": {"batch_size": 32},
        "hsfm": {"epochs": 2},
        "dfr": {"grid": [1.0, 0.1], "fits": 2},
        "llr": {"grid": [1.0, 0.1]},
        "ddb": ddb,
        "afr": {"steps": 5} if ddb else None,
        "dac": {"epochs": 1} if ddb else None,
    }
    if name == "celeba":
        settings["pixels"] = "files"
    if name != "dominoes":
        side = 64 if ddb else 32  # DaC's heat maps need more than one place
        settings["transform"] = {"resize": [side + 8] * 2, "crop": [side] * 2}
        settings["augmentation"] = {"random_resized_crop": {"size": [side] * 2}}
    return settings


@pytest.fixture(scope="module")
def overlay(diffusion) -> dict:
    """DDB on a few images, of which it keeps all that have an object."""
    ddb = {**diffusion, "sources_per_class": 3, "images_per_source": 1}
    ddb |= {"prune": {"attribution": 0.0, "steps": 2}, "retrain": {"epochs": 1}}
    settings = {name: small(name, ddb if name == "waterbirds" else None) for name in DATASETS}
    return {"training_threads": 1, "seeds": [60], "settings": settings}


def with_overlay(folder: Path, overlay: dict, **alone) -> list[str]:
    """Arguments for the paper's workflow on replicas that lie in the folder."""
    (folder / "small.yaml").write_text(yaml.safe_dump(overlay | alone))
    return [*PAPER, "small.yaml", "--"]


@pytest.fixture(scope="module")
def done(tmp_path_factory, overlay) -> Path:
    folder = copy_repository(tmp_path_factory.mktemp("paper") / "hsfm")
    for name in DATASETS:
        # torchvision knows CIFAR-10 by its MD5
        layout = ["arrays"] if name == "dominoes" else []
        getattr(replicas, f"write_{name}")(folder / "data" / name, *layout)
    snakemake(folder, *with_overlay(folder, overlay), *TABLES, "describe")
    return folder


def test_the_table_has_every_method_on_every_dataset(done):
    table = (done / "results/tables/main.md").read_text().splitlines()
    rows = [line.split("|")[1].strip() for line in table[2:13]]
    assert rows == ["ERM", "LLR", "CB-LLR", "", "AFR", "DaC", "DDB", "Tune", "HSFM", "", "DFR"]
    for name in DATASETS:
        assert f"{name}: worst group | {name}: average" in table[0]
    numbers = pd.read_csv(done / "results/tables/main.csv").set_index(["dataset", "method"])
    assert numbers["worst_group_percent"].between(0, 100).all()
    without_training_images = numbers["adjusted_average_percent"].isna().groupby("dataset").all()
    assert without_training_images.to_dict() == {name: name == "metashift" for name in DATASETS}


def test_replicas_are_not_set_beside_the_published_numbers(done):
    """Since they have other counts, which the table says of each."""
    assert pd.read_csv(done / "results/tables/published.csv").empty
    text = (done / "results/tables/published.md").read_text()
    for name in DATASETS:
        assert f"{name} is not set beside them, since its images are not the published ones: " in text
    check_latex((done / "results/tables/published.tex").read_text())


def test_images_and_features_of_every_dataset_agree(done):
    for name in DATASETS:
        run = done / f"results/{name}/run0"
        table = read_images(done / f"results/{name}/images.parquet")
        test = read_embeddings(run / "erm/embeddings/test.parquet", split="test")
        assert test.features.shape[1] == 512
        assert test.image_id == tuple(table.split("test")["image_id"])
        assert len(test.group.unique()) == GROUPS[name]
        assert read_checkpoint(run / "erm/backbone.safetensors").name == "resnet18"
        assert read_heads(run / "hsfm/heads.safetensors").head.weight.shape == (1, 2, 512)
        counts = pd.read_csv(done / f"results/{name}/counts.csv")
        assert counts["all"].sum() == len(table.rows)
    card = (done / "results/metashift/card.md").read_text()
    assert "| cat | shelf | 0 |" in card
    assert "Agreement, the share of images whose attribute is not rarer" in card


def test_generated_images_have_the_size_of_their_cached_sources(done):
    """Waterbirds' replicas are files of several sizes, resized and cropped for the network."""
    run = done / "results/waterbirds/run0/ddb"
    index = pd.read_parquet(done / "results/waterbirds/decoded.parquet").set_index("image_id")
    generated, pruned = (pd.read_parquet(run / f"{name}.parquet") for name in ("generated", "pruned"))
    assert len(generated) == len(pruned) == 6
    for row in generated[generated["image"].notna()].itertuples():
        size = tuple(index.loc[row.source_id, ["height", "width"]])
        assert read_png(row.image).shape[:2] == read_png(row.mask).shape == size
    assert pruned.loc[generated["image"].notna(), "attribution"].between(0, 1).all()
    assert read_heads(run / "seed60/heads.safetensors").head.weight.shape == (1, 2, 512)


def test_images_are_decoded_once_at_the_size_that_training_needs(done, overlay):
    for name, side in {"waterbirds": 64, "metashift": 32}.items():
        table = read_images(done / f"results/{name}/images.parquet")
        index = pq.read_table(done / f"results/{name}/decoded.parquet")
        assert index["image_id"].to_pylist() == table.rows["image_id"].tolist()
        assert (index["height"].to_numpy() <= table.rows["height"].to_numpy(int)).all()
        rule = json.loads(index.schema.metadata[b"decode_size"])
        crop = {"size": [side] * 2, "scale": [0.7, 1.0], "ratio": [0.75, 4 / 3]}
        assert rule == {"resize": [side + 8] * 2, "crop": crop}
    assert not (done / "results/dominoes/decoded.npy").exists(), "it is an array already"
    assert not (done / "results/celeba/decoded.npy").exists(), "pixels: files"
    assert rules_planned(done, *with_overlay(done, overlay), *TABLES) == set()


def test_the_unreadable_stop_the_stage_or_are_left_out(tmp_path, overlay):
    folder = copy_repository(tmp_path / "hsfm")
    replicas.write_waterbirds(folder / "data/waterbirds")
    names = pd.read_csv(folder / "data/waterbirds/metadata.csv")["img_filename"]
    for name in names[[3, 5]]:
        path = folder / "data/waterbirds" / name
        path.write_bytes(path.read_bytes()[:200])
    images, target = {"folder": "data/waterbirds", "allow_other_counts": True}, "results/waterbirds/images.parquet"

    def run(on_bad_image: str) -> str:
        own = overlay["settings"]["waterbirds"] | {"images": {**images, "on_bad_image": on_bad_image}, "ddb": None}
        alone = {"datasets": ["waterbirds"], "settings": {"waterbirds": own}}
        return snakemake(folder, *with_overlay(folder, overlay, **alone), target, check=on_bad_image == "skip").stdout

    (error,) = re.findall("^ERROR: .*", run("stop"), re.MULTILINE)
    assert f"data/waterbirds: cannot read 2 of {len(names)} images: {names[3]}: " in error
    assert "on_bad_image: skip leaves such images out" in error
    run("skip")
    assert len(read_images(folder / target).rows) == len(names) - 2
    unreadable = pd.read_csv(folder / "results/waterbirds/unreadable_images.csv")
    assert sorted(unreadable["path"]) == sorted(names[[3, 5]])


def test_the_plan_needs_no_data(tmp_path):
    folder = copy_repository(tmp_path / "hsfm")
    images = yaml.safe_load((folder / "config/paper.yaml").read_text())["settings"]["waterbirds"]["images"]
    second = {"base": "waterbirds", "images": images, "backbone": {"name": "resnet18"}, "ddb": None}
    both = {"datasets": [*DATASETS, "waterbirds18"], "settings": {"waterbirds18": second}}
    (folder / "both.yaml").write_text(yaml.safe_dump(both))
    jobs = planned_by(folder, *PAPER, "both.yaml")
    assert jobs["download_waterbirds"] == jobs["download_dominoes"] == 1, "two datasets share the images"
    assert jobs["train_erm"] == 5
    targets = [f"results/{name}/listed.parquet" for name in ("celeba", "metashift")]
    out = snakemake(folder, *PAPER, "--keep-going", "--", *targets, check=False).stdout
    for advice in ("img_align_celeba", "MetaDatasetCatDog"):
        assert re.search(f"^ERROR: .*{advice}", out, re.MULTILINE), out
