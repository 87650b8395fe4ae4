"""A user's own images, backbone, checkpoint and features, along the lines of the README."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
import yaml

from hsfm.data.table import read_images
from hsfm.deploy.cli import main
from hsfm.evaluation.scores import read_scores
from hsfm.features.embeddings import read_embeddings
from hsfm.features.extract import embed_images
from hsfm.heads.head import read_heads
from hsfm.methods.dac.masks import read_masks
from hsfm.models.backbone import read_checkpoint
from tests import replicas
from tests.repository import ROOT, copy_repository, python, rules_planned, run_python, snakemake

COLUMNS = {"path": "file", "y": "label", "attribute": "background", "split": "split", "id": None}
TRANSFORM = {"resize": [64, 64], "crop": None, "mean": [0.5] * 3, "std": [0.5] * 3}
FAST = {
    "erm": {"epochs": 1, "batch_size": 16},
    "erm_head": {"C": 0.1},
    "embeddings": {"batch_size": 16},
    "hsfm": {"epochs": 2, "support_steps": 2},
    "dac": {"epochs": 1},
    "dfr": {"grid": [1.0, 0.1], "fits": 2},
    "llr": {"grid": [1.0, 0.1]},
    "afr": {"steps": 10},
}
SMALL = {**FAST, "transform": TRANSFORM}
MAIN = "results/tables/main.md"


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


@pytest.fixture(scope="module", autouse=True)
def _hub(tmp_path_factory):
    """A place where torchvision looks for weights that it has downloaded; here they are random."""
    folder = tmp_path_factory.mktemp("hub")
    url = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url
    (folder / "hub/checkpoints").mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), folder / "hub/checkpoints" / Path(url).name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_HOME", str(folder))
        yield


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """A clone with photos and the README's mine.yaml in it."""
    folder = copy_repository(tmp_path_factory.mktemp("mine") / "hsfm")
    replicas.write_metadata(
        folder / "photos", columns=COLUMNS, classes=("cat", "dog"), attributes=("land", "water"), unknown=("train",)
    )
    (folder / "mine.yaml").write_text(blocks("yaml")[0])
    return folder


def own_images() -> dict:
    """The README's section on images, with what it takes from config/photos.yaml."""
    given = yaml.safe_load((ROOT / "config/photos.yaml").read_text())["settings"]["photos"]["images"]
    return {**given, **yaml.safe_load(blocks("yaml")[0])["settings"]["photos"]["images"]}


def write(folder: Path, name: str, config: dict) -> list[str]:
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return ["--configfile", f"{name}.yaml"]


def write_dataset(folder: Path, name: str, methods: tuple = ("erm", "hsfm"), **settings) -> list[str]:
    own = {"base": "minibirds", **FAST, **settings}
    return write(folder, name, {"datasets": [name], "seeds": [0], "methods": [*methods], "settings": {name: own}})


@pytest.fixture(scope="module")
def used(mine) -> Path:
    """The clone in which the workflow has run on the photos, with training attributes unknown."""
    small = {**SMALL, "backbone": {"name": "resnet18"}, "augmentation": {"random_resized_crop": {"size": [64, 64]}}}
    methods = ["erm", "llr", "cb_llr", "afr", "dac", "tune", "hsfm", "dfr"]
    fast = write(mine, "fast", {"seeds": [0], "methods": methods, "settings": {"photos": small}})
    snakemake(mine, "--configfile", "config/photos.yaml", "mine.yaml", *fast[1:], "--", "describe", MAIN)
    return mine


def test_the_workflow_on_ones_own_images(used):
    card = (used / "results/photos/card.md").read_text()
    assert "| cat | unknown |" in card
    assert "cannot be said: attributes of train are unknown" in card
    table = pd.read_csv(used / "results/tables/main.csv").set_index("method")
    assert list(table.index) == ["erm", "llr", "cb_llr", "afr", "dac", "tune", "hsfm", "dfr"]
    assert table["worst_group_percent"].notna().all()
    assert table["adjusted_average_percent"].isna().all(), "it weights by the groups of train, which are unknown"
    assert read_embeddings(used / "results/photos/run0/erm/embeddings/train.parquet").attribute.unique().tolist() == [
        -1
    ]


def test_without_any_attribute_the_worst_class_is_what_there_is(mine):
    """And classes have names that matplotlib, Snakemake and HTML have a meaning for."""
    metadata = pd.read_csv(mine / "photos/metadata.csv").drop(columns="background")
    metadata["label"] = metadata["label"].map({"cat": "$cat {run}$", "dog": "<狗> & $"})
    metadata.to_csv(mine / "photos/plain {v2}.csv", index=False)
    own = {"base": "minibirds", "images": own_images(), **SMALL}
    own["images"] |= {"metadata": "photos/plain {v2}.csv", "columns": {"path": "file", "y": "label", "split": "split"}}
    own["backbone"] = {"name": "small_resnet", "pretrained": False}
    methods = ["erm", "llr", "afr", "dac", "hsfm"]
    config = {"datasets": ["plain"], "seeds": [0], "methods": methods, "select_by": "worst_class"}
    out = snakemake(mine, *write(mine, "plain", {**config, "settings": {"plain": own}}), "--", "all").stdout
    assert out.count("no installed font has 狗") <= 1, "where no font has it, once"
    assert "Glyph" not in out
    assert "&lt;狗&gt; &amp; $" in (mine / "results/report.html").read_text()
    table = pd.read_csv(mine / "results/tables/main.csv").set_index("method")
    assert list(table.index) == methods
    assert table["worst_group_percent"].isna().all()
    assert table["worst_class_percent"].notna().all()


def test_what_labels_lack_is_said_before_an_image_is_decoded(mine):
    photos = pd.read_csv(mine / "photos/metadata.csv")
    val = photos.index[photos["split"].isin(["val", 1])]
    one = photos["background"].eq(photos["background"][val[0]]) & photos["label"].eq(photos["label"][val[0]])
    alone = photos.drop(val[one[val]][1:])
    alone.to_csv(mine / "photos/alone.csv", index=False)
    photos.loc[val[:3], "background"] = None
    photos.to_csv(mine / "photos/some.csv", index=False)
    said = []
    for name in ("alone", "some"):
        write_dataset(mine, name, images={**own_images(), "metadata": f"photos/{name}.csv"}, **SMALL)
        asked = ["--configfile", f"{name}.yaml", "--config", "methods=[erm, dfr, hsfm]"]
        out = snakemake(mine, *asked, "--", f"results/{name}/listed.parquet", check=name == "alone").stdout
        assert "Traceback" not in out
        said.append(out)
    warning = "WARNING: photos/alone.csv: dfr is going to be left out: DFR halves every group of validation, but "
    assert said[0].count(warning) == 1
    lacking = f"needs the attribute of every val image; 3 of {len(val)} lack it"
    assert f"ERROR: photos/some.csv: select_by: worst_group (dfr, hsfm) {lacking}" in said[1]
    # labels that were read before another method was asked for: said before decoding, and nothing is read again
    asked[-1] = "methods=[erm, llr]"
    snakemake(mine, *asked, "--", "results/some/listed.parquet")
    out = snakemake(mine, *asked[:-1], "methods=[erm, hsfm]", "--", "results/some/images.parquet", check=False).stdout
    assert "Listing the images" not in out
    assert f"ERROR: photos/some.csv: select_by: worst_group (hsfm) {lacking}" in out


def test_images_in_and_a_robust_model_out(mine):
    (program,) = blocks("python", "docs/how-to/own-images.md")
    assert re.search(r"^test accuracy [01]\.[0-9]{3}$", run_python(program, mine), re.MULTILINE)
    done = python(mine, "-m", "hsfm.predict", "photos", "--model", "robust.safetensors", "--out", "labels.csv")
    photos = pd.read_csv(mine / "photos/metadata.csv")
    assert f"labels.csv: {len(photos)} images" in done.stdout
    assert set(pd.read_csv(mine / "labels.csv")["class"]) <= {"cat", "dog"}


def test_a_frozen_backbone_and_its_export(mine):
    torch.manual_seed(2)
    torch.save(torchvision.models.resnet18().state_dict(), mine / "weights {v2}.pth")
    backbone = {"name": "resnet18", "weights": "weights {v2}.pth", "train": False}
    images = own_images()
    embeddings = {"batch_size": 16, "standardize": {"scale": 0.5}}
    own = {"images": images, "transform": TRANSFORM, "backbone": backbone, "embeddings": embeddings}
    arguments = write_dataset(mine, "frozen", **own)
    run = mine / "results/frozen/run0"
    snakemake(mine, *arguments, "--", "results/frozen/run0/hsfm/model_seed0.safetensors")
    train, test = (read_embeddings(run / f"erm/embeddings/{split}.parquet") for split in ("train", "test"))
    spread = train.features.std(0, correction=0)
    assert torch.allclose(spread[spread > 0], torch.tensor(0.5), atol=1e-4)
    expected = read_heads(run / "hsfm/heads.safetensors").head[0].logits(test.features)
    exported = read_checkpoint(run / "hsfm/model_seed0.safetensors").network.eval()
    table = read_images(mine / "results/frozen/images.parquet")
    paths = [Path(mine, table.folder, path) for path in table.split("test")["path"]]
    features = torch.from_numpy(embed_images(exported, paths, transform=TRANSFORM))
    assert torch.allclose(exported.fc(features), expected, atol=1e-3)


def test_features_that_are_there_already(used, monkeypatch):
    splits = {
        s: read_embeddings(used / f"results/photos/run0/erm/embeddings/{s}.parquet") for s in ("train", "val", "test")
    }
    for name, e in splits.items():
        np.savez(used / f"{name} {{v2}}.npz", x=e.features.numpy(), y=e.y.numpy(), attribute=e.attribute.numpy())
    methods = ("erm", "llr", {"afr_val": {"method": "afr", "on": "val"}}, "hsfm")
    arguments = write_dataset(used, "given", methods, embeddings={split: f"{split} {{v2}}.npz" for split in splits})
    snakemake(used, *arguments, "--", "results/figures/given/training.png", MAIN)
    scores = read_scores(used / "results/given/run0/hsfm/scores.parquet")
    assert scores.loc[scores["split"] == "test", "n"].sum() == len(splits["test"].y)
    assert not (used / "results/figures/given/examples.png").exists()
    # `hsfm compare` gives the same numbers, to the last digit
    settings = {name: FAST[name] for name in ("erm_head", "llr", "afr", "hsfm")}
    write(used, "compare", {"methods": [*methods], "seeds": [0], "settings": settings})
    monkeypatch.chdir(used)
    files = [f"{split} {{v2}}.npz" for split in splits]
    assert (
        main(["compare", *files, "--settings", "compare.yaml", "--name", "given", "--jobs", "1", "--out", "own"]) == 0
    )
    for table in ("main", "metrics", "groups", "uncertainty"):
        for kind in ("csv", "md"):
            assert Path(f"own/tables/{table}.{kind}").read_text() == Path(f"results/tables/{table}.{kind}").read_text()
    for row in ("erm", "llr", "afr_val", "hsfm"):
        heads = (read_heads(f) for f in (f"own/heads/{row}.safetensors", f"results/given/run0/{row}/heads.safetensors"))
        assert len({(head.head.weight.numpy().tobytes(), head.head.bias.numpy().tobytes()) for head in heads}) == 1
    # another file under the old name is noticed, even one from before
    changed = np.load(used / "val {v2}.npz")
    np.savez(used / "val {v2}.npz", x=changed["x"] + 1, y=changed["y"], attribute=changed["attribute"])
    os.utime(used / "val {v2}.npz", (0, 0))
    assert "import_embeddings" in rules_planned(used, *arguments)


def test_the_frozen_overlay_on_few_images(tmp_path):
    """ImageNet weights from the pip package, on the overlay as it stands but for the number of images."""
    folder = copy_repository(tmp_path / "hsfm")
    few = {**FAST, "images": {"sizes": {"train": 80, "val": 48, "test": 48}, "agreement": {"train": 0.8}}}
    few["embeddings"] = {"batch_size": 32}
    few_images = write(folder, "few", {"seeds": [0], "methods": ["erm", "dac"], "settings": {"frozenbirds": few}})
    snakemake(folder, "--configfile", "config/frozen.yaml", *few_images[1:], "--", MAIN)
    run = folder / "results/frozenbirds/run0"
    train = read_embeddings(run / "erm/embeddings/train.parquet")
    assert train.features.shape == (80, 1280)
    assert train.details["backbone"] == "timm:tf_efficientnet_lite0"
    erm = pd.read_csv(folder / "results/tables/main.csv").set_index("method").loc["erm"]
    assert erm["average_percent"] > 55, "ImageNet's features tell birds apart better than chance"
    read_heads(run / "dac/heads.safetensors").check_fits(train, "train.parquet")  # on the standardized features
    assert read_masks(run / "erm/masks/heat_map/train.parquet").size == (96, 96)
