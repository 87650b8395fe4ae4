"""Files of the minimal run: which there are, how they fit together, and what else can be made from them."""

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from bs4 import BeautifulSoup

from hsfm.data.pixels import read_packed
from hsfm.data.table import read_images
from hsfm.evaluation.predictions import read_predictions
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.hard_set import read_need, write_hard_set
from hsfm.heads.head import Head, read_heads
from hsfm.heads.scorer import Scorer
from hsfm.methods.dac.masks import read_masks
from hsfm.methods.hsfm import Settings
from hsfm.methods.hsfm import train as meta
from hsfm.models.backbone import read_checkpoint
from tests.latex_structure import check_latex
from tests.methods.test_afr import autograd
from tests.repository import MINIMAL, ROOT, RUN, planned_by, results, rules_planned, run_python, snakemake

METHODS = ("erm", "dfr", "llr", "cb_llr", "afr", "dac", "tune", "hsfm")


def test_every_file_is_there_and_nothing_half_written(finished):
    tables = ("main", "metrics", "groups", "uncertainty", "edits", "costs", "stages", "versions")
    figures = ("examples", "training", "groups", "tradeoff", "hard_set", "method", "masks", "edits",
               "edit_neighbors")  # fmt: skip
    networks = ("backbone.safetensors", "heads.safetensors", "standardization.safetensors",
                *(f"embeddings/{split}.parquet" for split in ("train", "val", "test")))  # fmt: skip
    assert set(results(finished)) == {
        *("results/report.html", "results/config.yaml", "results/minibirds/images.parquet"),
        *(f"results/minibirds/{name}" for name in ("pixels.npy", "card.md", "counts.csv")),
        *(f"{RUN}/{of}/{name}" for of in ("erm", "afr") for name in networks),
        *(f"{RUN}/{method}/{name}.parquet" for method in METHODS for name in ("scores", "predictions")),
        *(f"{RUN}/{method}/heads.safetensors" for method in ("hsfm", "dfr", "llr", "cb_llr", "tune", "dac")),
        *(f"{RUN}/dac/seed{seed}/{name}" for seed in (0, 1) for name in ("heads.safetensors", "history.parquet")),
        *(f"{RUN}/{name}.parquet" for name in ("erm/history", "erm/hard_set", "erm/masks/heat_map/train")),
        *(f"{RUN}/{name}.parquet" for name in ("afr/training", "afr/history", "tune/history", "tune/tried")),
        *(f"{RUN}/hsfm/{name}.parquet" for name in ("history", "hard_groups", "support", "edits", "tried")),
        *(f"results/tables/{table}.{suffix}" for table in tables for suffix in ("csv", "md", "tex", "html")),
        *(f"results/figures/minibirds/{figure}.{suffix}" for figure in figures for suffix in ("png", "pdf")),
    }
    for log in (finished / "logs").rglob("*.log"):
        assert "Traceback" not in log.read_text()


@pytest.mark.parametrize(
    ("method", "labels", "seeds", "network"),
    [
        ("erm", "none", (0,), "erm"),
        ("dfr", "training", (0, 1), "erm"),
        ("llr", "none", (0, 1), "erm"),
        ("cb_llr", "none", (0, 1), "erm"),
        ("tune", "selection", (0,), "erm"),
        ("afr", "selection", (0,), "afr"),
        ("dac", "selection", (0, 1), "erm"),
        ("hsfm", "selection", (0, 1), "erm"),
    ],
)
def test_scores_and_predictions_are_of_the_heads_on_the_features_of_the_network(
    finished, method, labels, seeds, network
):
    test = read_embeddings(finished / RUN / network / "embeddings/test.parquet")
    backbone = (finished / RUN / network / "backbone.safetensors").read_bytes()
    saved = read_heads(finished / RUN / method / "heads.safetensors")
    saved.check_fits(test, "test.parquet")
    assert (saved.group_labels, saved.seeds) == (labels, seeds)
    predicted = saved.head.predict(test.features)
    scores = pd.read_parquet(finished / RUN / method / "scores.parquet").query("split == 'test'")
    for seed, of_seed in zip(seeds, predicted, strict=True):
        right = [int((of_seed == test.y)[test.group == group].sum()) for group in range(4)]
        assert scores.loc[scores["seed"] == seed, "correct"].tolist() == right
    found = read_predictions(finished / RUN / method / "predictions.parquet")
    assert (found.image_id, found.seeds) == (test.image_id, seeds)
    assert found.checkpoint_sha256 == test.checkpoint_sha256 == hashlib.sha256(backbone).hexdigest()
    assert found.predicted.T.tolist() == predicted.tolist()
    assert found.group.tolist() == test.group.tolist()


def test_afrs_head_is_plain_torchs_on_what_its_own_network_has_not_seen(finished):
    """From the files: the network's own head, trained on by autograd on the held-out rows of the stored features."""
    folder = finished / RUN / "afr"
    trained, heads = read_checkpoint(folder / "backbone.safetensors"), read_heads(folder / "heads.safetensors")
    train = read_embeddings(folder / "embeddings/train.parquet")
    rows = torch.randperm(80, generator=torch.Generator().manual_seed(0))[:16].sort()[0]  # 0.2 of 80, run 0
    own = Head(trained.network.fc.weight.detach(), trained.network.fc.bias.detach())
    how = {key: heads.settings[key] for key in ("gamma", "penalty", "lr", "clip_norm")}
    layer = autograd(train.take(rows), own, steps=heads.settings["step"], **how)
    torch.testing.assert_close(heads.head[0].weight, layer.weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(heads.head[0].bias, layer.bias.detach(), rtol=1e-4, atol=1e-6)
    erm = read_checkpoint(finished / RUN / "erm/backbone.safetensors")
    settings = [json.loads(checkpoint.metadata["settings"])["training"] for checkpoint in (erm, trained)]
    assert settings[1] == {**settings[0], "holdout": 0.2}, "but for that they are trained alike"
    assert "by ERM's recipe" in heads.remarks[0]


def test_hsfm_starts_from_the_hard_set_in_the_file(copied):
    """Another choice in the file, ranks turned round, gives the heads that the library gives for it."""
    train, val = (read_embeddings(copied / RUN / f"erm/embeddings/{split}.parquet") for split in ("train", "val"))
    path = copied / RUN / "erm/hard_set.parquet"
    found = read_need(path, val, {"hard_per_class": 8})
    other = replace(found, rank=25 - found.rank, chosen=25 - found.rank <= 8)  # 24 images per class
    write_hard_set(path, other, val)
    saved = yaml.safe_load((copied / "results/config.yaml").read_text())["settings"]["minibirds"]["hsfm"]
    head = read_heads(copied / RUN / "erm/heads.safetensors").head[0]
    before = read_heads(copied / RUN / "hsfm/heads.safetensors").head
    expected = meta.train(
        train, val, head, Settings(**saved), seeds=[0, 1], hard_per_class=8, scorer=Scorer(val, "worst_group"),
        first_hard_set=other,
    ).head  # fmt: skip
    target = f"{RUN}/hsfm/heads.safetensors"
    snakemake(copied, *MINIMAL, "--allowed-rules", "fit_hsfm", "--forcerun", "fit_hsfm", "--", target)
    torch.testing.assert_close(read_heads(copied / target).head.weight, expected.weight)
    assert not torch.allclose(before.weight, expected.weight)


def test_tables_group_the_scores_and_say_how_they_came_about(finished):
    tables = finished / "results/tables"
    main = pd.read_csv(tables / "main.csv").set_index("method")
    assert tuple(main.index) == ("erm", "llr", "cb_llr", "afr", "dac", "tune", "hsfm", "dfr"), "by supervision"
    scores = pd.read_parquet(finished / RUN / "dfr/scores.parquet")
    worst = scores[scores["split"] == "test"].groupby("seed")["accuracy"].min()
    assert main.loc["dfr", "worst_group_percent"] == pytest.approx(100 * worst.mean(), abs=1e-4)
    assert main.loc["dfr", "worst_group_deviation"] == pytest.approx(100 * worst.std(), abs=1e-4)
    assert "What picked the head: ERM: the last epoch; DFR: C by the worst group" in (tables / "main.md").read_text()
    assert f'<tr data-made-from="{RUN}/hsfm/scores.parquet"><td>HSFM</td>' in (tables / "main.html").read_text()
    for path in tables.glob("*.tex"):
        check_latex(path.read_text())
        rows = path.with_suffix(".html").read_text().count("<tr") - 1
        lines = path.with_suffix(".md").read_text().splitlines()
        assert rows == len([line for line in lines if line.startswith("| ") and line.strip("| ")]) - 2  # head, rule
        assert rows > 0 or path.stem == "versions"
    costs = pd.read_csv(tables / "costs.csv").set_index("method")
    assert tuple(costs.index) == METHODS
    assert (costs["seconds"] > costs.loc["erm", "seconds"]).drop(["erm", "afr"]).all(), "AFR trains on fewer images"
    assert costs.loc["afr", "seconds"] > 0
    assert {"train_erm", "extract_embeddings", "fit_hsfm"} <= set(pd.read_csv(tables / "stages.csv")["stage"])


def test_snakemakes_report_holds_every_table_and_figure(finished):
    snakemake(finished, *MINIMAL, "--report", "snakemake-report.html")
    text = (finished / "snakemake-report.html").read_text()
    shown = [*finished.glob("results/tables/*.html"), *finished.glob("results/figures/*/*.png")]
    assert len(shown) > 15
    assert [path for path in shown if f'"{path.relative_to(finished)}"' not in text] == []


def test_commands_of_the_page_name_files_of_the_run_and_snakemake_takes_them(finished):
    page = BeautifulSoup((finished / "results/report.html").read_text(), "html.parser")
    made = [files for part in page.select("[data-made-from]") for files in part["data-made-from"].split()]
    assert [file for file in made if not (finished / file).is_file()] == []
    row = next(row for row in page.select("#table-main tbody tr") if row.td.text == "DFR")
    command = f"{page.select_one('#command')['data-command']} {row['data-made-from']}".splitlines()[-1]
    assert command.startswith("snakemake ")
    assert rules_planned(finished, *command.split()[1:], "--force") == {"score_heads"}


def test_tables_of_costs_do_without_records_that_are_gone(copied):
    for record in (copied / "logs").rglob("*.*"):
        record.unlink()
    snakemake(copied, *MINIMAL, "--forcerun", "make_tables", "--", "results/tables/costs.md")
    rows = (copied / "results/tables/costs.md").read_text().splitlines()[2:7]
    assert all(row.endswith("| - | - | - | - | - |") for row in rows)


def test_exported_networks_classify_images_as_their_heads_do_embeddings(copied):
    """Of a method on ERM's network and of one with its own."""
    models = {"hsfm": RUN / "hsfm/model_seed1.safetensors", "afr": RUN / "afr/model_seed0.safetensors"}
    snakemake(copied, *MINIMAL, "--", *map(str, models.values()))
    rows = read_images(copied / "results/minibirds/images.parquet").split("test")
    images = read_packed(rows, copied / "results/minibirds").stacked()
    for (method, model), network in zip(models.items(), ("erm", "afr"), strict=True):
        exported = read_checkpoint(copied / model)
        head = read_heads(copied / RUN / method / "heads.safetensors").head[-1]
        test = read_embeddings(copied / RUN / network / "embeddings/test.parquet")
        assert test.image_id == tuple(rows["image_id"])
        with torch.no_grad():
            logits = exported.network.eval()(images.float() / 127.5 - 1)
        torch.testing.assert_close(head.logits(test.features), logits, rtol=1e-4, atol=1e-5)
        assert torch.equal(exported.network.fc.weight, head.weight)
        assert exported.metadata["method"] == method
    assert rules_planned(copied, *MINIMAL) == set()


def test_the_classifier_of_the_readme_runs(finished):
    (classifier,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    arrays = {}
    for split in ("train", "val", "test"):
        e = read_embeddings(finished / RUN / f"erm/embeddings/{split}.parquet")
        suffix = "" if split == "train" else f"_{split}"
        arrays |= {f"X{suffix}": e.features.numpy(), f"y{suffix}": e.y.numpy()}
        arrays[f"background{suffix}"] = np.array(e.attribute_names)[e.attribute.numpy()]
    np.savez(finished / "features.npz", **arrays)
    out = run_python(classifier, finished)
    (finished / "features.npz").unlink()
    assert re.search(r"^land: accuracy [01]\.[0-9]{3}\nwater: accuracy [01]\.[0-9]{3}$", out, re.MULTILINE)


def test_the_studies_end_in_tables_and_figures(copied):
    """The sweep holds the settings drawn and the configured one; the first ablation is HSFM itself."""
    studies = ["--config", "studies=[selection, sweep, ablations, validation_bias]"]
    names = ("selection", "sweep", "ablations", "validation_bias")
    figures = [f"results/figures/minibirds/{study}.png" for study in ("sweep", "validation_bias")]
    snakemake(copied, *MINIMAL, *studies, "--", *(f"results/tables/{study}.md" for study in names), *figures)
    for study in names:
        text = (copied / f"results/tables/{study}.md").read_text()
        assert text.startswith("| Dataset |")
        assert "nan" not in text
    changed = "settings={minibirds: {sweep: {draws: 3}}}"
    again = rules_planned(copied, *MINIMAL, *studies, changed)
    assert {"sweep_hsfm", "tabulate_study", "draw_study"} <= again
    assert not {"ablate_hsfm", "bias_validation", "select_heads", "fit_hsfm"} & again
    of_one = planned_by(copied, *MINIMAL, *studies, "settings={minibirds: {dfr: {fits: 3}}}")
    assert of_one["select_heads"] == of_one["bias_validation"] == 1, "a changed row alone"
    scores = pd.read_parquet(copied / RUN / "hsfm/scores.parquet")
    sweep = pd.concat(pd.read_parquet(copied / RUN / f"studies/sweep_part{part}.parquet") for part in (0, 1))
    assert sorted(sweep["setting"].unique()) == [0, 1, 2, 3, 4]
    configured = sweep[(sweep["setting"] == 0) & (sweep["rule"] == "worst_group")].iloc[0]
    test = scores[(scores["split"] == "test") & (scores["seed"] == 0)]
    assert configured["test_worst_group"] == pytest.approx(test["accuracy"].min())
    assert configured["test_average"] == pytest.approx(test["correct"].sum() / test["n"].sum())
    ablations = pd.read_parquet(copied / RUN / "studies/ablations.parquet")
    whole = ablations[ablations["method"] == "hsfm"].reset_index(drop=True)
    assert whole[["seed", "split", "group", "correct"]].equals(scores[["seed", "split", "group", "correct"]])
    assert ablations["method"].nunique() == 6
    facts = ["seed", "split", "group", "correct", "group_labels", "chosen_by", "remark"]
    for row in ("dfr", "llr", "afr", "hsfm"):  # the configured rule, on the same inputs: the same heads
        own = pd.read_parquet(copied / RUN / f"studies/selection_{row}.parquet")
        as_configured = own[own["rule"] == ("worst_class" if row == "llr" else "worst_group")]
        scores = pd.read_parquet(copied / RUN / row / "scores.parquet")
        expected = scores[scores["split"].isin(["val", "test"])]
        assert as_configured[facts].reset_index(drop=True).equals(expected[facts].reset_index(drop=True)), row


def test_dac_with_masks_that_the_dataset_knows_and_features_that_drift(copied):
    """Each seed then has a network and features of its own, scored as those of DDB."""
    how = "settings={minibirds: {masks: {source: dataset}, dac: {batchnorm: drift}}}"
    model, heads = f"{RUN}/dac/model_seed1.safetensors", f"{RUN}/dac/heads.safetensors"
    snakemake(copied, *MINIMAL, "--config", how, "methods=[erm, dac]", "--", model, heads, "results/tables/main.md")
    table = read_images(copied / "results/minibirds/images.parquet")
    masks = read_masks(copied / RUN / "erm/masks/dataset/train.parquet", split="train")
    assert masks.image_id == tuple(table.split("train")["image_id"])
    assert "minibirds, DaC: scored on features of its own" in (copied / "results/tables/main.md").read_text()
    gathered = read_heads(copied / heads)
    assert (gathered.seeds, gathered.settings["masks"]) == ((0, 1), "dataset")
    exported = read_checkpoint(copied / model)
    network = read_checkpoint(copied / RUN / "dac/seed1/backbone.safetensors").network
    assert torch.equal(exported.network.fc.weight, network.fc.weight)
    assert torch.equal(exported.network.body.bn1.running_mean, network.body.bn1.running_mean)
