"""A user's own images, backbone, checkpoint and features, along the lines of the README."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import yaml

from hsfm.data.table import read_images
from hsfm.deploy.export import export_model
from hsfm.evaluation.scores import read_scores
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.head import read_heads
from hsfm.methods.dac.masks import read_masks
from hsfm.models.backbone import read_checkpoint
from tests import replicas
from tests.repository import ROOT, copy_repository, run_python, snakemake

COLUMNS = {"path": "file", "y": "label", "attribute": "background", "split": "split", "id": None}
FAST = {
    "erm": {"epochs": 1, "batch_size": 16},
    "erm_head": {"C": 0.1},
    "embeddings": {"batch_size": 16},
    "hsfm": {"epochs": 2, "support_steps": 2},
    "dac": {"epochs": 2},
    "dfr": {"grid": [1.0, 0.1], "fits": 2},
    "llr": {"grid": [1.0, 0.1]},
    "afr": {"steps": 10},
}


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.fixture(scope="module")
def hub(tmp_path_factory) -> Path:
    """Where torchvision looks for weights that it has downloaded; here they are random."""
    folder = tmp_path_factory.mktemp("hub")
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    (folder / "hub/checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), folder / "hub/checkpoints" / Path(url).name)
    return folder


@pytest.fixture(scope="module", autouse=True)
def at_hub(hub):
    before = os.environ.get("TORCH_HOME")
    os.environ["TORCH_HOME"] = str(hub)
    yield
    os.environ.pop("TORCH_HOME") if before is None else os.environ.update(TORCH_HOME=before)


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """A clone with photos and the README's mine.yaml in it."""
    folder = copy_repository(tmp_path_factory.mktemp("mine") / "hsfm")
    replicas.write_metadata(
        folder / "photos", columns=COLUMNS, classes=("cat", "dog"), attributes=("land", "water"), unknown=("train",)
    )
    (folder / "mine.yaml").write_text(blocks("yaml")[0])
    (folder / "fast.yaml").write_text(yaml.safe_dump({"seeds": [0], "settings": {"mine": FAST}}))
    return folder


ARGUMENTS = ["--configfile", "mine.yaml", "fast.yaml", "--"]


def test_the_workflow_on_ones_own_images(mine):
    snakemake(mine, *ARGUMENTS, "describe")
    card = (mine / "results/mine/card.md").read_text()
    assert "| cat | unknown |" in card
    assert "cannot be said: attributes of train are unknown" in card
    snakemake(mine, *ARGUMENTS, "all")
    table = pd.read_csv(mine / "results/tables/main.csv").set_index("method")
    assert list(table.index) == ["erm", "dfr", "llr", "afr", "dac", "hsfm"]
    assert table["worst_group_percent"].notna().all()
    assert table["adjusted_average_percent"].isna().all(), "it weights by the groups of train, which are unknown"
    assert read_embeddings(mine / "results/mine/run0/erm/embeddings/train.parquet").attribute.unique().tolist() == [-1]


def test_without_any_attribute_the_worst_class_is_what_there_is(mine):
    metadata = pd.read_csv(mine / "photos/metadata.csv").drop(columns="background")
    metadata.to_csv(mine / "photos/plain.csv", index=False)
    config = yaml.safe_load(blocks("yaml")[0])
    own = config["settings"].pop("mine")
    own["images"] |= {"metadata": "photos/plain.csv", "columns": {"path": "file", "y": "label", "split": "split"}}
    own["hsfm"]["select_by"] = "worst_class"
    own["afr"], own["dac"] = {"select_by": "worst_class"}, {"select_by": "worst_class"}
    config |= {"datasets": ["plain"], "methods": ["erm", "llr", "afr", "dac", "hsfm"], "settings": {"plain": own}}
    (mine / "plain.yaml").write_text(yaml.safe_dump(config))
    (mine / "fast_plain.yaml").write_text(yaml.safe_dump({"seeds": [0], "settings": {"plain": FAST}}))
    files = ["--configfile", "plain.yaml", "fast_plain.yaml"]
    snakemake(mine, *files)
    table = pd.read_csv(mine / "results/tables/main.csv").set_index("method")
    assert table["worst_group_percent"].isna().all()
    assert table["worst_class_percent"].notna().all()
    config["methods"].append("dfr")
    own["dac"]["select_by"] = "worst_group"
    (mine / "plain.yaml").write_text(yaml.safe_dump(config))
    refused = snakemake(mine, *files, check=False)
    for need in ("dfr", "dac/select_by: worst_group"):
        assert f"settings/plain/images/columns: no attribute, which {need} needs on validation" in refused.stdout


def test_images_in_and_a_robust_model_out(mine):
    (program,) = blocks("python", "docs/how-to/own-images.md")
    assert re.fullmatch(r"test accuracy [01]\.[0-9]{3}\n", run_python(program, mine))
    done = subprocess.run(
        [sys.executable, "-m", "hsfm.predict", "photos", "--model", "robust.safetensors", "--out", "labels.csv"],
        cwd=mine, env={**os.environ, "PYTHONPATH": str(mine)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    photos = pd.read_csv(mine / "photos/metadata.csv")
    assert f"labels.csv: {len(photos)} images" in done.stdout
    assert set(pd.read_csv(mine / "labels.csv")["class"]) <= {"cat", "dog"}


def write_config(folder: Path, name: str, **settings) -> list[str]:
    own = {"base": "minibirds", **FAST, **settings}
    config = {"datasets": [name], "seeds": [0], "methods": ["erm", "hsfm"], "settings": {name: own}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return ["--configfile", f"{name}.yaml", "--"]


def of_photos() -> dict:
    own = yaml.safe_load(blocks("yaml")[0])["settings"]["mine"]
    small = {"resize": [64, 64], "crop": None, "mean": [0.5] * 3, "std": [0.5] * 3}
    return {"images": own["images"], "transform": small}


def test_a_checkpoint_of_ones_own(mine):
    """A training script's: wrapped, prefixed, with one logit."""
    torch.manual_seed(1)
    model = torchvision.models.resnet18(num_classes=1)
    state = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save({"model_state_dict": state, "epoch": 7}, mine / "trained.pth")
    backbone = {"name": "resnet18", "checkpoint": "trained.pth"}
    arguments = write_config(mine, "trained", backbone=backbone, **of_photos())
    snakemake(mine, *arguments, "all")
    network = read_checkpoint(mine / "results/trained/run0/erm/backbone.safetensors").network.eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logit = model.eval()(images)
        assert torch.allclose(network(images), torch.cat([torch.zeros_like(logit), logit], 1), atol=1e-5)
    assert "ERM: its own, as given" in (mine / "results/tables/main.md").read_text()
    assert not (mine / "results/trained/run0/erm/history.parquet").exists()
    several = snakemake(mine, *arguments[:2], "--dry-run", "--config", "runs=[0, 1]", check=False)
    assert "runs: trained is not trained here and has one run only, but runs lists [0, 1]" in several.stdout


def test_a_frozen_backbone_and_its_export(mine):
    torch.manual_seed(2)
    torch.save(torchvision.models.resnet18().state_dict(), mine / "weights.pth")
    backbone = {"name": "resnet18", "weights": "weights.pth", "train": False}
    embeddings = {"batch_size": 16, "standardize": {"scale": 0.5}}
    arguments = write_config(mine, "frozen", backbone=backbone, **{**of_photos(), "embeddings": embeddings})
    snakemake(mine, *arguments, "all", "results/frozen/run0/hsfm/model_seed0.safetensors")
    run = mine / "results/frozen/run0"
    train, test = (read_embeddings(run / f"erm/embeddings/{split}.parquet") for split in ("train", "test"))
    spread = train.features.std(0, correction=0)
    assert torch.allclose(spread[spread > 0], torch.tensor(0.5), atol=1e-4)
    expected = read_heads(run / "hsfm/heads.safetensors").head[0].logits(test.features)
    exported = read_checkpoint(run / "hsfm/model_seed0.safetensors").network.eval()
    from hsfm.features.extract import embed_images

    table = read_images(mine / "results/frozen/images.parquet")
    paths = [Path(mine, table.folder, path) for path in table.split("test")["path"]]
    features = torch.from_numpy(embed_images(exported, paths, transform=of_photos()["transform"]))
    assert torch.allclose(exported.fc(features), expected, atol=1e-3)
    with pytest.raises(ValueError, match="is for the features of checkpoint"):
        export_model(
            mine / "no.safetensors",
            checkpoint=mine / "results/trained/run0/erm/backbone.safetensors",
            heads=mine / "results/trained/run0/erm/heads.safetensors",
            standardization=run / "erm/standardization.safetensors",
        )


def test_features_that_are_there_already(mine):
    splits = {
        s: read_embeddings(mine / f"results/mine/run0/erm/embeddings/{s}.parquet") for s in ("train", "val", "test")
    }
    for name, e in splits.items():
        np.savez(mine / f"{name}.npz", x=e.features.numpy(), y=e.y.numpy(), attribute=e.attribute.numpy())
    embeddings = {split: f"{split}.npz" for split in splits}
    arguments = write_config(mine, "given", **{"embeddings": embeddings})
    snakemake(mine, *arguments, "all")
    scores = read_scores(mine / "results/given/run0/hsfm/scores.parquet")
    assert scores.loc[scores["split"] == "test", "n"].sum() == len(splits["test"].y)
    assert not (mine / "results/figures/given/examples.png").exists()
    assert (mine / "results/figures/given/training.png").exists()
    # another file under the old name is noticed, even one from before
    changed = np.load(mine / "val.npz")
    np.savez(mine / "val.npz", x=changed["x"] + 1, y=changed["y"], attribute=changed["attribute"])
    os.utime(mine / "val.npz", (0, 0))
    plan = snakemake(mine, *arguments[:2], "--dry-run").stdout
    assert re.search(r"^import_embeddings +1$", plan, re.MULTILINE)
    for value, message in (
        ({"val": "nowhere.npz"}, "given/embeddings/val: no file nowhere.npz"),
        ({"val": "given.yaml"}, "given/embeddings/val: given.yaml is neither .npz nor .parquet"),
        ({"val": "results/given/run0/erm/embeddings/val.parquet"}, "val.parquet lies in results"),
        ({"standardize": {"scale": 1.0}}, "given/embeddings/standardize: is for a frozen backbone on images"),
    ):
        other = yaml.safe_load((mine / "given.yaml").read_text())
        other["settings"]["given"]["embeddings"] |= value
        (mine / "other.yaml").write_text(yaml.safe_dump(other))
        refused = snakemake(mine, "--configfile", "other.yaml", "--dry-run", check=False)
        assert message in refused.stdout


MISTAKES = {
    "settings={mine: {base: maxibirds}}": "settings/mine/base: unknown dataset 'maxibirds'; settings has ",
    "settings={mine: {base: mine}}": "settings/mine/base: 'mine' is based on 'mine' in turn",
    "settings={mine: {images: {columns: {file: x}}}}": "settings/mine/images/columns: unknown key 'file'; ",
    "settings={mine: {images: {source: photos}}}": "settings/mine/images/source: unknown value 'photos'; allowed are",
    "settings={mine: {afr: null, backbone: {checkpoint: none.pth, pretrained: false}}}": (
        "settings/mine/backbone/checkpoint: no file none.pth"
    ),
    "settings={mine: {afr: null, backbone: {train: false, pretrained: false}}}": (
        "settings/mine/backbone: train is false, but there are neither pretrained weights nor a checkpoint"
    ),
    "settings={mine: {embeddings: {standardize: {scale: 1}}}}": (
        "settings/mine/embeddings/standardize: is for a frozen backbone"
    ),
    "settings={mine: {embeddings: {train: x.npz}}}": "settings/mine/embeddings/train: is for a dataset without images",
    "settings={mine: {images: {metadata: none.csv}}}": "settings/mine/images/metadata: no file none.csv",
    "settings={mine: {backbone: {weights: mine.yaml}}}": (
        "settings/mine/backbone: pretrained and weights exclude one another"
    ),
    "settings={mine: {base: [minibirds]}}": "settings/mine/base: ['minibirds'] is not the name of a dataset",
    "settings={mine: {images: {on_bad_image: ignore}}}": "settings/mine/images/on_bad_image: unknown value 'ignore'",
}


@pytest.mark.parametrize(("setting", "message"), MISTAKES.items())
def test_a_mistake_is_one_line_before_anything_runs(mine, setting, message):
    done = snakemake(mine, "--configfile", "mine.yaml", "--dry-run", "--config", setting, check=False)
    assert done.returncode != 0
    lines = [line for line in done.stdout.splitlines() if "ERROR" in line or "Error" in line]
    assert len(lines) == 1, done.stdout
    assert f"): {message}" in lines[0]


def test_the_frozen_overlay_on_few_images(tmp_path):
    """ImageNet weights from the pip package, on the overlay as it stands but for the number of images."""
    folder = copy_repository(tmp_path / "hsfm")
    few = {"images": {"sizes": {"train": 80, "val": 48, "test": 48}, "agreement": {"train": 0.8}}, **FAST}
    few["embeddings"] = {"batch_size": 32}
    config = {"seeds": [0], "methods": ["erm", "dac", "hsfm"], "settings": {"frozenbirds": few}}
    (folder / "few.yaml").write_text(yaml.safe_dump(config))
    snakemake(folder, "--configfile", "config/frozen.yaml", "few.yaml")
    train = read_embeddings(folder / "results/frozenbirds/run0/erm/embeddings/train.parquet")
    assert train.features.shape == (80, 1280)
    assert train.details["backbone"] == "timm:tf_efficientnet_lite0"
    erm = pd.read_csv(folder / "results/tables/main.csv").set_index("method").loc["erm"]
    assert erm["average_percent"] > 55, "ImageNet's features tell birds apart better than chance"
    head = read_heads(folder / "results/frozenbirds/run0/dac/heads.safetensors")
    head.check_fits(train, "train.parquet")  # on the standardized features
    assert read_masks(folder / "results/frozenbirds/run0/erm/masks/heat_map/train.parquet").size == (96, 96)
