"""The workflow as a user runs it: Snakemake on config/minimal.yaml in a copy of the repository."""

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image

from hsfm.core.gpus import accelerator_present
from hsfm.data.pixels import read_packed
from hsfm.data.table import read_images
from hsfm.evaluation.predictions import read_predictions
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.hard_set import read_hard_set, write_hard_set
from hsfm.heads.head import Head, read_heads
from hsfm.heads.scorer import Scorer
from hsfm.methods.dac.masks import read_masks, unpack
from hsfm.methods.hsfm import Settings
from hsfm.methods.hsfm import train as meta
from hsfm.models.backbone import read_checkpoint
from tests.latex_structure import check_latex
from tests.methods.test_afr import autograd
from tests.repository import (
    MINIMAL,
    ROOT,
    RUN,
    copy_repository,
    jobs_of_last_run,
    planned_by,
    results,
    run_python,
    snakemake,
)

AFR_CHOICE = {"gamma": "gamma", "penalty": "penalty", "step": "epoch"}  # in the heads' settings: in the history
EVERYTHING = {
    "pack_images": 1,
    "train_erm": 1,
    "train_on_share": 1,
    "extract_embeddings": 2,
    "read_erm_head": 1,
    "build_hard_set": 1,
    "fit_hsfm": 1,
    "fit_dfr": 1,
    "fit_llr": 1,
    "fit_afr": 1,
    "make_masks": 1,
    "fit_dac": 2,
    "gather_heads": 1,
    "score_heads": 6,
    "make_tables": 1,
    "describe_results": 1,
    "save_config": 1,
    "write_report": 1,
    "draw_figure": 3,
    "draw_scores": 1,
    "draw_method": 1,
    "draw_masks": 1,
    "measure_edits": 1,
    "draw_edits": 1,
    "tabulate_edits": 1,
}


def planned(folder: Path, *arguments: str) -> dict[str, int]:
    """Jobs by rule that a dry run of the minimal configuration lists, without `all`."""
    return planned_by(folder, *MINIMAL, *arguments)


def timeless(files: dict[str, str]) -> dict[str, str]:
    """Without the tables of how long it took and of what had ended when, the figure of times, and the page with all."""
    with_times = ("costs", "stages", "versions", "time", "report")
    return {path: digest for path, digest in files.items() if Path(path).stem not in with_times}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """A copy in which the minimal workflow has run from nothing. Tests that change it put everything back."""
    folder = copy_repository(tmp_path_factory.mktemp("first") / "hsfm")
    assert planned(folder) == EVERYTHING
    snakemake(folder, *MINIMAL)
    return folder


@pytest.fixture
def edited(finished):
    """Change files of the finished copy, and have them back afterwards."""
    before = {}

    def edit(path: str, change) -> None:
        file = finished / path
        before.setdefault(file, file.read_bytes())
        file.write_text(change(file.read_text()))

    yield edit
    for file, content in before.items():
        file.write_bytes(content)


def test_everything_is_there_and_nothing_half_written(finished):
    files = set(results(finished))
    expected = {
        "results/report.html",
        "results/minibirds/images.parquet",
        "results/minibirds/pixels.npy",
        *(
            f"{RUN}/{of}/{name}.safetensors"
            for of in ("erm", "afr")
            for name in ("backbone", "heads", "standardization")
        ),
        *(f"{RUN}/{name}.parquet" for name in ("erm/history", "afr/training", "afr/history")),
        *(f"{RUN}/{of}/embeddings/{split}.parquet" for of in ("erm", "afr") for split in ("train", "val", "test")),
        f"{RUN}/erm/hard_set.parquet",
        f"{RUN}/hsfm/history.parquet",
        f"{RUN}/hsfm/hard_groups.parquet",
        f"{RUN}/hsfm/support.parquet",
        f"{RUN}/erm/masks/heat_map/train.parquet",
        *(f"{RUN}/dac/seed{seed}/{name}" for seed in (0, 1) for name in ("heads.safetensors", "history.parquet")),
        *(f"{RUN}/{method}/heads.safetensors" for method in ("hsfm", "dfr", "llr", "dac")),
        *(
            f"{RUN}/{method}/{name}.parquet"
            for method in ("erm", "hsfm", "dfr", "llr", "afr", "dac")
            for name in ("scores", "predictions")
        ),
        f"{RUN}/hsfm/edits.parquet",
        *(
            f"results/tables/{t}.{s}"
            for t in (
                *("main", "metrics", "groups", "uncertainty", "edits"),
                *("costs", "stages", "settings", "versions"),
            )
            for s in ("csv", "md", "tex", "html")
        ),
        *(
            f"results/figures/minibirds/{f}.{s}"
            for f in (
                *("examples", "training", "groups", "tradeoff", "time", "hard_set", "method", "masks"),
                *("edits", "edit_cosines", "edit_neighbors"),
            )
            for s in ("png", "pdf")
        ),
    }
    expected.add("results/config.yaml")
    assert files == expected
    for log in (finished / "logs").rglob("*.log"):
        assert "Traceback" not in log.read_text()


def test_files_fit_together(finished):
    checkpoints = {of: (finished / RUN / of / "backbone.safetensors").read_bytes() for of in ("erm", "afr")}
    val = {of: read_embeddings(finished / RUN / of / "embeddings/val.parquet") for of in checkpoints}
    for of, content in checkpoints.items():
        assert val[of].checkpoint_sha256 == hashlib.sha256(content).hexdigest()
    for method, labels, seeds, features in (
        ("erm", "none", (0,), val["erm"]),
        ("dfr", "training", (0, 1), val["erm"]),
        ("llr", "none", (0, 1), val["erm"]),
        ("afr", "selection", (0,), val["afr"]),
        ("dac", "selection", (0, 1), val["erm"]),
        ("hsfm", "selection", (0, 1), val["erm"]),
    ):
        saved = read_heads(finished / RUN / method / "heads.safetensors")
        saved.check_fits(features, "val.parquet")
        assert (saved.group_labels, saved.seeds) == (labels, seeds)
        scores = pd.read_parquet(finished / RUN / method / "scores.parquet")
        predictions = saved.head.predict(features.features)
        part = scores[(scores["split"] == "val") & (scores["seed"] == seeds[-1])]
        correct = predictions[-1] == features.y
        assert part["correct"].tolist() == [int(correct[features.group == g].sum()) for g in range(4)]
    chosen = pq.read_table(finished / RUN / "erm/hard_set.parquet")
    assert chosen.num_rows == 48
    assert sum(chosen["chosen"].to_pylist()) == 16


def test_afrs_head_is_plain_torchs_on_what_its_own_network_has_not_seen(finished, tmp_path):
    """From the files: the network's own head, trained on by autograd on the held-out rows of the stored features."""
    folder = finished / RUN / "afr"
    trained, heads = read_checkpoint(folder / "backbone.safetensors"), read_heads(folder / "heads.safetensors")
    train, test = (read_embeddings(folder / f"embeddings/{split}.parquet") for split in ("train", "test"))
    rows = torch.randperm(80, generator=torch.Generator().manual_seed(0))[:16].sort()[0]  # 0.2 of 80, run 0
    own = Head(trained.network.fc.weight.detach(), trained.network.fc.bias.detach())
    how = {key: heads.settings[key] for key in ("gamma", "penalty", "lr", "clip_norm")}
    layer = autograd(train.take(rows), own, steps=heads.settings["step"], **how)
    torch.testing.assert_close(heads.head[0].weight, layer.weight.detach(), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(heads.head[0].bias, layer.bias.detach(), rtol=1e-4, atol=1e-6)
    assert not torch.equal(heads.head[0].weight, own.weight)

    history = pd.read_parquet(folder / "history.parquet")
    assert len(history) == 4 * 20, "two gammas, two lambdas"
    best = history.sort_values(["val_worst_group", "val_average"], ascending=False, kind="stable").iloc[0]
    assert best["kept"]
    assert history["kept"].sum() == 1
    assert {key: best[column] for key, column in AFR_CHOICE.items()} == {key: heads.settings[key] for key in AFR_CHOICE}
    erm = read_checkpoint(finished / RUN / "erm/backbone.safetensors")
    settings = [json.loads(checkpoint.metadata["settings"])["training"] for checkpoint in (erm, trained)]
    assert settings[1] == {**settings[0], "holdout": 0.2}, "but for that they are trained alike"
    assert not torch.equal(erm.network.fc.weight, trained.network.fc.weight)

    copy = tmp_path / "hsfm"
    shutil.copytree(finished, copy)
    snakemake(copy, *MINIMAL, "--", str(RUN / "afr/model_seed0.safetensors"))
    exported = read_checkpoint(copy / RUN / "afr/model_seed0.safetensors").network.eval()
    images = read_packed(
        read_images(copy / "results/minibirds/images.parquet").split("test"), copy / "results/minibirds"
    )
    with torch.no_grad():
        logits = exported(images.stacked().float() / 127.5 - 1)
    torch.testing.assert_close(heads.head[0].logits(test.features), logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (["methods=[afr]", "settings={minibirds: {afr: null}}"],
         "methods: afr alone, which minibirds leaves out (afr: null)"),
        (["methods=[afr, ddb]", "settings={minibirds: {afr: null, ddb: null}}"],
         "methods: afr, ddb alone, which minibirds leaves out (afr: null, ddb: null)"),
    ],
)  # fmt: skip
def test_methods_that_a_dataset_leaves_out_alone_are_refused(finished, chosen, message):
    done = snakemake(finished, "--dry-run", "--config", *chosen, check=False)
    assert done.returncode != 0
    (line,) = [line for line in done.stdout.splitlines() if "ERROR" in line]
    assert line.endswith(message)


def test_null_leaves_a_method_out_for_a_dataset(finished):
    assert planned(finished, "--config", "settings={minibirds: {afr: null}}") == {
        "draw_figure": 1, "draw_scores": 1, **TABLES, **CONFIG
    }  # fmt: skip


def test_the_table_groups_the_scores(finished):
    table = pd.read_csv(finished / "results/tables/main.csv").set_index("method")
    assert table.index.tolist() == ["erm", "dfr", "llr", "afr", "dac", "hsfm"]
    scores = pd.read_parquet(finished / RUN / "dfr/scores.parquet")
    worst = scores[scores["split"] == "test"].groupby("seed")["accuracy"].min()
    assert table.loc["dfr", "worst_group_percent"] == pytest.approx(100 * worst.mean(), abs=1e-4)
    assert table.loc["dfr", "worst_group_deviation"] == pytest.approx(100 * worst.std(), abs=1e-4)
    assert (finished / "results/tables/main.md").read_text().startswith("| Method | Group labels |")


def test_predictions_are_those_of_the_heads(finished):
    test = read_embeddings(finished / RUN / "erm/embeddings/test.parquet")
    for method in ("erm", "dac", "hsfm"):
        saved = read_heads(finished / RUN / method / "heads.safetensors")
        found = read_predictions(finished / RUN / method / "predictions.parquet")
        assert (found.image_id, found.seeds, found.checkpoint_sha256) == (
            test.image_id, saved.seeds, test.checkpoint_sha256
        )  # fmt: skip
        assert found.predicted.T.tolist() == saved.head.predict(test.features).tolist()
        assert found.group.tolist() == test.group.tolist()


def test_every_table_is_latex_and_html_of_the_same_rows(finished):
    for path in (finished / "results/tables").glob("*.tex"):
        check_latex(path.read_text())
        rows = path.with_suffix(".html").read_text().count("<tr") - 1
        assert rows == path.with_suffix(".md").read_text().count("\n| ") - 1
        assert rows > 0 or path.stem == "versions"
    main = (finished / "results/tables/main.html").read_text()
    assert f'<tr data-made-from="{RUN}/hsfm/scores.parquet"><td>HSFM</td>' in main


def test_snakemakes_report_holds_every_table_and_figure(finished):
    snakemake(finished, *MINIMAL, "--report", "snakemake-report.html")
    text = (finished / "snakemake-report.html").read_text()
    shown = [*finished.glob("results/tables/*.html"), *finished.glob("results/figures/*/*.png")]
    assert len(shown) > 15
    assert [path for path in shown if f'"{path.relative_to(finished)}"' not in text] == []


def test_the_run_is_described(finished):
    costs = pd.read_csv(finished / "results/tables/costs.csv").set_index("method")
    assert costs.index.tolist() == ["erm", "dfr", "llr", "afr", "dac", "hsfm"]
    assert (costs["seconds"] > costs.loc["erm", "seconds"]).drop(["erm", "afr"]).all(), "AFR trains on fewer images"
    assert costs.loc["afr", "seconds"] > 0
    stages = pd.read_csv(finished / "results/tables/stages.csv")
    # what comes after, or is drawn meanwhile, is none of it
    of_results = [
        rule for rule in EVERYTHING if not re.match("draw|tabulate|make_tables|describe|save|write_report", rule)
    ]
    assert set(stages["stage"]) == set(of_results)
    assert stages.groupby("stage")["jobs"].sum().to_dict() == {rule: EVERYTHING[rule] for rule in of_results}
    settings = pd.read_csv(finished / "results/tables/settings.csv").set_index(["section", "setting"])["value"]
    assert (settings["hsfm", "inner_steps"], settings["hard_set", "hard_per_class"]) == ("2", "8")
    assert "erm_head" not in settings.index.get_level_values(0), "a trained network has a head of its own"


def test_the_saved_configuration_gives_the_same_again(finished):
    out = snakemake(finished, "--dry-run", "--configfile", "results/config.yaml").stdout
    assert "Nothing to be done" in out


def test_a_saved_configuration_holds_what_a_dataset_inherits(finished, tmp_path):
    """`base`, short numbers and the command line are gone into it; what was not chosen is left out."""
    folder = tmp_path / "hsfm"
    shutil.copytree(finished, folder)
    own = {"base": "minibirds", "images": {"source": "minibirds", "sizes": {"train": 80, "val": 48, "test": 48},
           "agreement": {"train": 0.8, "val": 0.5, "test": 0.5}, "image_size": 32, "hardness": 0.15, "seed": 3},
           "hsfm": {"inner_lr": "5e-4"}}  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump({"datasets": ["mine"], "settings": {"mine": own}}))
    arguments = ["--configfile", "config/minimal.yaml", "mine.yaml", "--config", "runs=[0, 1]"]
    snakemake(folder, *arguments, "--", "results/config.yaml")
    saved = yaml.safe_load((folder / "results/config.yaml").read_text())
    assert (saved["datasets"], saved["runs"], list(saved["settings"])) == (["mine"], [0, 1], ["mine"])
    assert saved["settings"]["mine"]["hsfm"]["inner_lr"] == 0.0005
    assert saved["settings"]["mine"]["dac"]["batch_size"] == 16
    plans = [
        planned_by(folder, *arguments),
        planned_by(folder, "--configfile", "results/config.yaml"),
    ]
    assert plans[0] == plans[1]
    assert plans[0]["train_erm"] == 2
    assert "save_config" not in plans[0]


def test_logs_are_no_inputs(finished, tmp_path):
    """They may be deleted or written anew without anything being made again; tables then have dashes."""
    folder = tmp_path / "hsfm"
    shutil.copytree(finished, folder)
    for path in (folder / "logs").rglob("*.tsv"):
        path.write_text(path.read_text().replace("0:00", "1:00"))
    assert planned(folder) == {}
    shutil.rmtree(folder / "logs")
    assert planned(folder) == {}
    snakemake(folder, *MINIMAL, "--forcerun", "describe_results", "--", "results/tables/costs.md")
    rows = (folder / "results/tables/costs.md").read_text().splitlines()[2:7]
    assert all(row.endswith("| - | - | - | - | - |") for row in rows)


def test_nothing_to_do_the_second_time(finished):
    assert planned(finished) == {}


def test_a_touched_module_reruns_nothing(finished):
    for module in ("hsfm/core/files.py", "hsfm/methods/hsfm/train.py", "workflow/scripts/train_erm.py"):
        (finished / module).touch()
    assert planned(finished) == {}


PAGE = {"write_report": 1}
TABLES = {"make_tables": 1, "describe_results": 1, **PAGE}
EDITS = {"measure_edits": 1, "draw_edits": 1, "tabulate_edits": 1, "describe_results": 1, **PAGE}
SCORED = {"score_heads": 1, "draw_scores": 1, **TABLES}  # figures groups, tradeoff, time
HSFM_ONLY = {"fit_hsfm": 1, **SCORED, "draw_figure": 2, "draw_method": 1, **EDITS}
DAC = {"fit_dac": 2, "gather_heads": 1, **SCORED, "draw_figure": 1}  # training too
CONFIG = {"save_config": 1}  # of changed settings
MASKS = {"make_masks": 1, "draw_masks": 1, **DAC}
AFR = {"fit_afr": 1, **SCORED, "draw_figure": 1}
FITS = {"fit_afr": 1, "fit_dfr": 1, "fit_llr": 1, **HSFM_ONLY, "score_heads": 4}
HEADS = {"read_erm_head": 1, "build_hard_set": 1, "fit_hsfm": 1, "fit_dfr": 1, "fit_llr": 1, "fit_afr": 1, **MASKS,
         "score_heads": 6, "draw_figure": 2, "draw_method": 1, **EDITS}  # fmt: skip
DRAWINGS = {"draw_figure": 3, "draw_scores": 1, "draw_method": 1, "draw_masks": 1, "draw_edits": 1}
IMAGES = {rule: n for rule, n in EVERYTHING.items() if rule not in CONFIG}
TRAINING = {rule: 2 if rule == "draw_figure" else n for rule, n in IMAGES.items() if rule != "pack_images"}


def with_setting(section: str, key: str, value):
    def change(text: str) -> str:
        config = yaml.safe_load(text)
        config["settings"]["minibirds"].setdefault(section, {})[key] = value
        return yaml.safe_dump(config)

    return change


@pytest.mark.parametrize(
    ("section", "key", "value", "jobs"),
    [
        ("hsfm", "inner_lr", 0.002, HSFM_ONLY),
        ("hsfm", "select_by", "worst_class", HSFM_ONLY),
        ("hard_set", "hard_per_class", 9, {"build_hard_set": 1, **HSFM_ONLY}),
        ("dfr", "fits", 3, {"fit_dfr": 1, **SCORED}),
        ("afr", "steps", 30, AFR),
        ("dac", "alpha", 3, DAC),
        ("edits", "neighbors", 4, EDITS),
        ("masks", "fallback", 0.7, MASKS),
        ("erm", "epochs", 3, TRAINING),
        ("erm", "holdout", 0.3, {"train_on_share": 1, "extract_embeddings": 1, **AFR}),
        ("images", "seed", 5, IMAGES),
    ],
)
def test_a_changed_setting_reruns_its_stage_and_what_follows(finished, edited, section, key, value, jobs):
    edited("config/minimal.yaml", with_setting(section, key, value))
    assert planned(finished) == {**jobs, **CONFIG}


@pytest.mark.parametrize(
    ("module", "jobs"),
    [
        ("hsfm/methods/hsfm/train.py", HSFM_ONLY),
        ("hsfm/methods/hsfm/meta_gradient.py", HSFM_ONLY),
        ("hsfm/heads/hard_set.py", {"build_hard_set": 1, **HSFM_ONLY}),
        ("hsfm/methods/dfr.py", {"fit_dfr": 1, **SCORED}),
        ("hsfm/heads/logistic_regression.py", {"fit_dfr": 1, "fit_llr": 1, **SCORED, "score_heads": 2}),
        ("hsfm/heads/head.py", HEADS),
        ("hsfm/methods/afr.py", AFR),
        ("hsfm/methods/dac/fit.py", {**DAC, "draw_masks": 1}),
        ("hsfm/methods/dac/masks.py", MASKS),
        ("hsfm/methods/dac/find_masks.py", MASKS),
        ("hsfm/evaluation/scores.py", {**SCORED, "score_heads": 6, "draw_figure": 3}),
        ("hsfm/evaluation/predictions.py", {**SCORED, "score_heads": 6, "draw_figure": 2}),
        ("hsfm/evaluation/bootstrap.py", {"make_tables": 1, **PAGE}),
        ("hsfm/report/tables.py", {"make_tables": 1, "draw_scores": 1, **PAGE}),
        ("hsfm/report/costs.py", {"describe_results": 1, "draw_scores": 1, **PAGE}),
        ("hsfm/report/page.py", PAGE),
        ("hsfm/report/contents.py", PAGE),
        ("hsfm/core/text_tables.py", {"tabulate_edits": 1, "draw_scores": 1, **TABLES}),
        ("hsfm/report/figures.py", {**DRAWINGS, **PAGE}),
        ("hsfm/report/hsfm.mplstyle", {**DRAWINGS, **PAGE}),
        ("hsfm/report/method_figure.py", {"draw_method": 1, **PAGE}),
        ("hsfm/analysis/neighbors.py", {**EDITS, "draw_method": 1}),
        ("hsfm/analysis/edits.py", {**EDITS, "draw_method": 1}),
        ("hsfm/models/erm.py", TRAINING),
        ("hsfm/data/sources/minibirds.py", IMAGES),
        ("hsfm/__init__.py", {}),
        ("workflow/scripts/fit_method.py", FITS),
        ("workflow/scripts/fit_dac.py", DAC),
    ],
)
def test_a_changed_module_reruns_the_rules_that_import_it_and_what_follows(finished, edited, module, jobs):
    edited(module, lambda text: text + ("\nCHANGED = True\n" if module.endswith(".py") else "\n# changed\n"))
    assert planned(finished) == jobs


def test_a_changed_docstring_or_comment_reruns_nothing(finished, edited):
    def reworded(text: str) -> str:
        assert '"""' in text
        return "# Reworded.\n" + text.replace('"""', '"""In other words. ', 1)

    for module in ("hsfm/core/files.py", "hsfm/methods/hsfm/train.py", "workflow/scripts/train_erm.py"):
        edited(module, reworded)
    assert planned(finished) == {}


def test_older_code_copied_over_newer_is_seen(finished, edited, tmp_path):
    """As `cp -p` leaves it: the text of another version with a date before that of all results."""
    module = finished / "hsfm/methods/dfr.py"
    other = tmp_path / "dfr.py"
    other.write_text(module.read_text() + "\nOLDER = True\n")
    os.utime(other, (0, 0))
    edited("hsfm/methods/dfr.py", lambda text: text)
    shutil.copy2(other, module)
    assert planned(finished) == {"fit_dfr": 1, **SCORED}


def test_another_commit_and_back_reruns_nothing(finished, tmp_path):
    """`git checkout` gives every file that differs a new date, twice."""
    folder = tmp_path / "hsfm"
    shutil.copytree(finished, folder)

    def git(*arguments: str) -> None:
        who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True)

    (folder / ".gitignore").write_text("results\nlogs\n.snakemake\n__pycache__\n")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    git("checkout", "-qb", "other")
    for module in ("hsfm/methods/dfr.py", "hsfm/models/erm.py", "workflow/scripts/fit_method.py"):
        (folder / module).write_text((folder / module).read_text() + "\nOTHER = True\n")
    git("commit", "-qam", "two")
    assert planned(folder)["train_erm"] == 1
    git("checkout", "-q", "-")
    assert planned(folder) == {}


@pytest.mark.parametrize(
    "file",
    ["hsfm/report/templates/report.css", "workflow/report/tables/main.rst", "workflow/report/figures/groups.rst"],
)
def test_a_changed_caption_or_style_reruns_the_page_alone(finished, edited, file):
    edited(file, lambda text: text + "\nMore.\n")
    assert planned(finished) == PAGE


def test_a_changed_hsfm_setting_leaves_all_else_as_it_was(finished, tmp_path):
    """Really run it, in a copy that keeps Snakemake's records."""
    folder = tmp_path / "hsfm"
    shutil.copytree(finished, folder)
    before = results(folder)
    minimal = folder / "config/minimal.yaml"
    minimal.write_text(with_setting("hsfm", "inner_lr", 0.02)(minimal.read_text()))
    snakemake(folder, *MINIMAL)
    assert set(jobs_of_last_run(folder)) == {*HSFM_ONLY, *CONFIG, "all"}
    after = results(folder)
    changed = {path for path in before if after[path] != before[path]}
    assert f"{RUN}/hsfm/heads.safetensors" in changed
    assert not any(
        path.startswith((f"{RUN}/erm", f"{RUN}/dfr", f"{RUN}/llr", "results/minibirds/images")) for path in changed
    )


def test_two_runs_from_nothing_are_the_same_bytes(finished, tmp_path):
    second = copy_repository(tmp_path / "hsfm")
    snakemake(second, *MINIMAL)
    assert timeless(results(second)) == timeless(results(finished))


@pytest.mark.parametrize("setting", ["settings={minibirds: {hsfm: {inner_stpes: 3}}}", "methods=[erm, dfrr]"])
def test_a_mistake_in_the_configuration_is_one_line_before_anything_runs(finished, setting):
    """Its words are looked at in tests/hsfm_workflow/test_config.py."""
    done = snakemake(finished, "--dry-run", "--config", setting, check=False)
    assert done.returncode != 0
    lines = [line for line in done.stdout.splitlines() if "ERROR" in line or "Error" in line]
    assert len(lines) == 1, done.stdout
    assert lines[0].startswith("ERROR: configuration (config/config.yaml): ")
    assert "Traceback" not in done.stdout


def test_more_gpus_rerun_nothing_and_where_there_are_none_train_in_one_process(finished, tmp_path):
    several = ["--config", "training_gpus=2"]
    assert planned(finished, *several) == {**CONFIG, **PAGE}
    folder = tmp_path / "hsfm"
    shutil.copytree(finished, folder)
    target = RUN / "erm/backbone.safetensors"
    snakemake(folder, *MINIMAL, *several, "--allowed-rules", "train_erm", "--forcerun", "train_erm", "--", str(target))
    assert (folder / target).read_bytes() == (finished / target).read_bytes()


def test_numbers_on_the_command_line_and_in_short_form_are_read(finished, edited):
    """Snakemake hands over texts in nested values, and YAML reads 5e-4 as one; both mean the number."""
    edited("config/minimal.yaml", with_setting("hsfm", "inner_lr", "5e-4"))
    assert planned(finished) == {}
    assert planned(finished, "--config", "runs=[0, 1]")["train_erm"] == 1


def test_the_order_of_settings_means_nothing(finished, edited):
    edited("config/config.yaml", lambda text: yaml.safe_dump(yaml.safe_load(text), sort_keys=True))
    assert planned(finished) == {}


def test_a_gpu_that_is_not_there_is_said_before_anything_runs(finished):
    if accelerator_present():
        assert "gpu=1" in snakemake(finished, "--dry-run", "--forceall", "--config", "device=cuda").stdout
        return
    done = snakemake(finished, "--dry-run", "--config", "device=cuda", check=False)
    assert done.returncode != 0
    assert "device: 'cuda' was asked for, but this machine has no CUDA device" in done.stdout


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("image_size", "settings/minibirds/images: missing key 'image_size'"),
        ("holdout", "settings/minibirds/erm: missing key 'holdout', which afr needs"),
    ],
)
def test_a_missing_key_is_named(finished, edited, key, message):
    edited("config/config.yaml", lambda text: re.sub(rf"^ +{key}:.*\n", "", text, flags=re.MULTILINE))
    done = snakemake(finished, "--dry-run", check=False)
    assert done.returncode != 0
    assert message in done.stdout


def test_a_truncated_file_stops_its_stage_with_one_line_and_nothing_half_written(finished, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(finished, folder)
    val = folder / RUN / "erm/embeddings/val.parquet"
    val.write_bytes(val.read_bytes()[:-50])
    target = f"{RUN}/dfr/heads.safetensors"
    done = snakemake(folder, *MINIMAL, "--forcerun", "fit_dfr", "--", target, check=False)
    assert done.returncode != 0
    errors = [line for line in done.stdout.splitlines() if line.startswith("ERROR: ")]
    assert len(errors) == 1, done.stdout
    assert "val.parquet: not a readable Parquet file, perhaps truncated" in errors[0]
    assert "Traceback (most recent call last)" not in done.stdout
    assert "Traceback" in (folder / "logs/minibirds/run0/fit_dfr.traceback").read_text()
    assert not list((folder / RUN / "dfr").glob("*heads*"))


def test_embeddings_of_another_checkpoint_are_refused(finished, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(finished, folder)
    path = folder / RUN / "erm/embeddings/val.parquet"
    table = pq.read_table(path)
    metadata = {**table.schema.metadata, b"checkpoint_sha256": b'"' + b"0" * 64 + b'"'}
    pq.write_table(table.replace_schema_metadata(metadata), path)
    done = snakemake(folder, *MINIMAL, "--forcerun", "build_hard_set", "--", f"{RUN}/erm/hard_set.parquet", check=False)
    assert done.returncode != 0
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("ERROR: ")]
    assert re.search(r"val.parquet: checkpoint 0{64}, but the erm heads are for [0-9a-f]{64}", error)


def test_the_classifier_of_the_readme_runs(finished):
    (classifier,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    splits = {
        split: read_embeddings(finished / RUN / f"erm/embeddings/{split}.parquet") for split in ("train", "val", "test")
    }
    arrays = {}
    for split, e in splits.items():
        suffix = "" if split == "train" else f"_{split}"
        arrays |= {f"X{suffix}": e.features.numpy(), f"y{suffix}": e.y.numpy()}
        arrays[f"background{suffix}"] = np.array(e.attribute_names)[e.attribute.numpy()]
    np.savez(finished / "features.npz", **arrays)
    out = run_python(classifier, finished)
    (finished / "features.npz").unlink()
    assert re.fullmatch(r"land: accuracy [01]\.[0-9]{3}\nwater: accuracy [01]\.[0-9]{3}\n", out)


def test_a_killed_job_goes_on_and_ends_with_the_same_weights(tmp_path):
    folder = copy_repository(tmp_path / "killed")
    target = f"{RUN}/erm/backbone.safetensors"
    more = with_setting("erm", "epochs", 40)((folder / "config/minimal.yaml").read_text())
    (folder / "config/minimal.yaml").write_text(more)
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(folder, undisturbed)

    command = [sys.executable, "-m", "snakemake", "--cores", "1", *MINIMAL, "--", target]
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    with open(tmp_path / "out", "w") as out:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out, start_new_session=True)
        deadline = time.monotonic() + 120
        while not list((folder / RUN).glob("erm/.resume-*.pt")):
            assert process.poll() is None, (tmp_path / "out").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (folder / target).exists()
    snakemake(folder, *MINIMAL, "--unlock")
    snakemake(folder, *MINIMAL, "--", target)
    assert "resuming after epoch" in (folder / "logs/minibirds/run0/train_erm.log").read_text()
    assert not list((folder / RUN).glob("erm/.resume-*"))
    snakemake(undisturbed, *MINIMAL, "--", target)
    assert results(folder) == results(undisturbed)


STUDIES = "studies=[sweep, ablations, validation_bias]"
OF_STUDIES = {"sweep_hsfm": 2, "gather_sweep": 1, "ablate_hsfm": 1, "bias_validation": 1, "tabulate_study": 3,
              "draw_study": 2, "describe_results": 1, "save_config": 1,
              **PAGE}  # fmt: skip


@pytest.fixture(scope="module")
def studied(finished, tmp_path_factory) -> Path:
    """A copy in which the studies have run too."""
    folder = tmp_path_factory.mktemp("studied") / "hsfm"
    shutil.copytree(finished, folder)
    assert planned(folder, "--config", STUDIES) == OF_STUDIES
    snakemake(folder, *MINIMAL, "--config", STUDIES)
    return folder


def test_the_studies_end_in_tables_and_figures(studied):
    for study in ("sweep", "ablations", "validation_bias"):
        text = (studied / f"results/tables/{study}.md").read_text()
        assert text.startswith("| Dataset |")
        assert "nan" not in text
        assert "begin{table}" in (studied / f"results/tables/{study}.tex").read_text()
        assert len(pd.read_csv(studied / f"results/tables/{study}.csv"))
    for study in ("sweep", "validation_bias"):
        assert (studied / f"results/figures/minibirds/{study}.png").read_bytes().startswith(b"\x89PNG")
    assert planned(studied, "--config", STUDIES) == {}
    assert planned(studied) == {"describe_results": 1, **CONFIG, **PAGE}, "the rest does not depend on them"


def test_the_sweep_holds_the_settings_drawn_and_the_configured_one(studied, finished):
    sweep = pd.read_parquet(studied / RUN / "studies/sweep.parquet")
    assert sorted(sweep["setting"].unique()) == [0, 1, 2, 3, 4]
    assert set(sweep["rule"]) == {"worst_group", "worst_class"}
    assert not list((studied / RUN / "studies").glob("sweep_part*"))
    configured = sweep[(sweep["setting"] == 0) & (sweep["rule"] == "worst_group")].iloc[0]
    scores = pd.read_parquet(finished / RUN / "hsfm/scores.parquet")
    test = scores[(scores["split"] == "test") & (scores["seed"] == 0)]
    assert configured["test_worst_group"] == pytest.approx(test["accuracy"].min())
    assert configured["test_average"] == pytest.approx(test["correct"].sum() / test["n"].sum())


def test_the_first_ablation_is_hsfm_itself(studied, finished):
    ablations = pd.read_parquet(studied / RUN / "studies/ablations.parquet")
    scores = pd.read_parquet(finished / RUN / "hsfm/scores.parquet")
    whole = ablations[ablations["method"] == "hsfm"].reset_index(drop=True)
    assert whole[["seed", "split", "group", "correct"]].equals(scores[["seed", "split", "group", "correct"]])
    assert ablations["method"].nunique() == 6


def test_a_changed_sweep_reruns_the_sweep_alone(studied):
    changed = "settings={minibirds: {sweep: {draws: 3}}}"
    assert planned(studied, "--config", STUDIES, changed) == {
        "sweep_hsfm": 2, "gather_sweep": 1, "tabulate_study": 1, "draw_study": 1, "describe_results": 1, **PAGE,
        **CONFIG,
    }  # fmt: skip


def test_a_model_is_exported_when_asked_for(finished, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(finished, folder)
    target = RUN / "hsfm/model_seed1.safetensors"
    snakemake(folder, *MINIMAL, "--", str(target))
    exported = read_checkpoint(folder / target)
    head = read_heads(folder / RUN / "hsfm/heads.safetensors").head[1]
    assert torch.equal(exported.network.fc.weight, head.weight)
    assert exported.metadata["method"] == "hsfm"
    assert planned(folder) == {}
    images = np.load(folder / "results/minibirds/pixels.npy")[:5]
    (folder / "pictures").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"pictures/{number}.png")
    done = subprocess.run(
        [sys.executable, "-m", "hsfm.predict", "pictures", "--model", str(target), "--out", "out.parquet"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("out.parquet: 5 images (")
    table = pd.read_parquet(folder / "out.parquet")
    with torch.no_grad():
        logits = exported.network.eval()(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert table["class"].tolist() == [exported.class_names[i] for i in logits.argmax(1)]
    other = Image.fromarray(np.zeros((40, 40, 3), np.uint8))
    other.save(folder / "pictures/9.png")
    refused = subprocess.run(
        [sys.executable, "-m", "hsfm.predict", "pictures", "--model", str(target)],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert refused.returncode == 1
    assert "9.png: is 40 x 40 pixels (width x height), expected 32 x 32 like the training images" in refused.stderr


def test_logits_of_the_network_are_the_head_on_the_embeddings(finished):
    """From the files: the checkpoint on the stored images, against ERM's head on the stored features."""
    network = read_checkpoint(finished / RUN / "erm/backbone.safetensors").network.eval()
    table = read_images(finished / "results/minibirds/images.parquet")
    rows = table.split("test")
    images = read_packed(rows, finished / "results/minibirds").stacked()
    with torch.no_grad():
        logits = network(images.float() / 127.5 - 1)
    test = read_embeddings(finished / RUN / "erm/embeddings/test.parquet", split="test")
    head = read_heads(finished / RUN / "erm/heads.safetensors").head[0]
    assert test.image_id == tuple(rows["image_id"])
    torch.testing.assert_close(head.logits(test.features), logits, rtol=1e-4, atol=1e-5)


def test_hsfm_starts_from_the_hard_set_in_the_file(finished, tmp_path):
    """Another choice in the file, ranks turned round, gives the heads that the library gives for it."""
    folder = tmp_path / "hsfm"
    shutil.copytree(finished, folder)
    train, val = (read_embeddings(folder / RUN / f"erm/embeddings/{split}.parquet") for split in ("train", "val"))
    path = folder / RUN / "erm/hard_set.parquet"
    found = read_hard_set(path, val, per_class=8)
    other = replace(found, rank=25 - found.rank, chosen=25 - found.rank <= 8)  # 24 images per class
    write_hard_set(path, other, val)
    saved = yaml.safe_load((folder / "results/config.yaml").read_text())["settings"]["minibirds"]["hsfm"]
    settings, scorer = Settings(**saved), Scorer(val, "worst_group")
    head = read_heads(folder / RUN / "erm/heads.safetensors").head[0]
    before = read_heads(folder / RUN / "hsfm/heads.safetensors").head
    expected = meta.train(
        train, val, head, settings, seeds=[0, 1], hard_per_class=8, scorer=scorer, first_hard_set=other
    ).head
    target = f"{RUN}/hsfm/heads.safetensors"
    snakemake(folder, *MINIMAL, "--allowed-rules", "fit_hsfm", "--forcerun", "fit_hsfm", "--", target)
    after = read_heads(folder / target).head
    torch.testing.assert_close(after.weight, expected.weight)
    assert not torch.allclose(before.weight, expected.weight)


def test_heads_and_scores_say_how_they_came_about(finished):
    saved = read_heads(finished / RUN / "hsfm/heads.safetensors")
    assert saved.chosen_by == "the epoch with the best validation worst group"
    assert saved.settings["inner_steps"] == 2
    assert len(saved.settings["kept_epoch"]) == len(saved.remarks) == 2
    checkpoint = read_checkpoint(finished / RUN / "erm/backbone.safetensors")
    assert checkpoint.metadata["run"] == "0"
    assert '"epochs": 2' in checkpoint.metadata["settings"]
    table = (finished / "results/tables/main.md").read_text()
    assert "What picked the head: ERM: the last epoch; DFR: C by the worst group" in table


def test_a_name_that_hides_its_module_is_refused(finished, edited):
    edited("workflow/scripts/score_heads.py", lambda text: "from hsfm import read_heads\n" + text)
    done = snakemake(finished, *MINIMAL, "--dry-run", check=False)
    assert done.returncode != 0
    assert "score_heads.py: import read_heads from its module" in done.stdout


def test_lint_finds_nothing(finished):
    done = snakemake(finished, "--lint", check=False)
    assert done.returncode == 0, done.stdout


def test_killed_masks_go_on_after_their_last_part(finished, tmp_path):
    """A job that dies in its third part leaves two, which the next run does not make again."""
    folder = tmp_path / "hsfm"
    shutil.copytree(finished, folder)
    script = folder / "workflow/scripts/make_masks.py"
    script.write_text(
        script.read_text().replace('BATCHES * settings.batch_size', "16").replace(
            "n = write_rows_in_parts(\n",
            "def mask(rows, done, mask=mask):\n"
            "    number = rows.index[0] // 16\n"
            "    if number == 2 and not Path('revived').exists():\n"
            "        os.kill(os.getpid(), signal.SIGKILL)\n"
            "    print(f'part {number}', flush=True)\n"
            "    return mask(rows, done=done)\n"
            "n = write_rows_in_parts(\n",
        ).replace("from functools", "import os\nimport signal\nfrom pathlib import Path\nfrom functools", 1)
    )  # fmt: skip
    target = RUN / "erm/masks/heat_map/train.parquet"
    done = snakemake(folder, *MINIMAL, "--", str(target), check=False)
    assert done.returncode != 0
    assert not (folder / target).exists()
    (parts,) = (folder / RUN / "erm/masks/heat_map").glob(".train-*")
    assert sorted(path.name for path in parts.iterdir()) == ["000000.parquet", "000001.parquet"]
    (folder / "revived").touch()
    (parts.parent / ".train-0123").mkdir()  # of other settings
    out = snakemake(folder, *MINIMAL, "--", str(target)).stdout
    assert re.findall(r"^part (\d)$", out, re.MULTILINE) == ["2", "3", "4"]
    assert not list(parts.parent.glob(".*"))
    ours, whole = (pq.read_table(path / target) for path in (folder, finished))
    assert ours["image_id"].equals(whole["image_id"])
    # a batch that is cut elsewhere may round differently, and a pixel at the very quantile then changes sides
    bits = [np.unpackbits(np.frombuffer(b"".join(t["mask"].to_pylist()), np.uint8)) for t in (ours, whole)]
    assert (bits[0] != bits[1]).mean() < 0.01


def test_each_seed_has_features_of_its_own_where_batchnorm_drifts(finished, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(finished, folder)
    drift = "settings={minibirds: {dac: {batchnorm: drift}}}"
    assert planned(folder, "--config", drift) == {
        "fit_drifting_dac": 2, "extract_embeddings": 2, **SCORED, "draw_figure": 1, **CONFIG,
    }  # fmt: skip
    model = RUN / "dac/model_seed1.safetensors"
    heads = RUN / "dac/heads.safetensors"
    snakemake(folder, *MINIMAL, "--config", drift, "--", "all", str(model), str(heads))
    scores = pd.read_parquet(folder / RUN / "dac/scores.parquet")
    table = read_images(folder / "results/minibirds/images.parquet")
    for seed in (0, 1):
        seed_folder = folder / RUN / f"dac/seed{seed}"
        saved, test = (
            read_heads(seed_folder / "heads.safetensors"),
            read_embeddings(seed_folder / "embeddings/test.parquet"),
        )
        saved.check_fits(test, "test.parquet")
        # scored from images: the seed's own network gives the very counts
        network = read_checkpoint(seed_folder / "backbone.safetensors").network.eval()
        images = read_packed(table.split("test"), folder / "results/minibirds").stacked()
        with torch.no_grad():
            correct = network(images.float() / 127.5 - 1).argmax(1) == test.y
        part = scores[(scores["split"] == "test") & (scores["seed"] == seed)]
        assert part["correct"].tolist() == [int(correct[test.group == g].sum()) for g in range(4)]
    assert scores["remark"].unique().tolist() == ["scored on features of its own, since BatchNorm's statistics drifted"]
    assert "minibirds, DaC: scored on features of its own" in (folder / "results/tables/main.md").read_text()
    gathered = read_heads(folder / heads)
    assert gathered.seeds == (0, 1)
    assert gathered.remarks == ("scored on features of its own, since BatchNorm's statistics drifted",) * 2
    erm = read_embeddings(folder / RUN / "erm/embeddings/test.parquet")
    with pytest.raises(ValueError, match="but the dac heads are for"):
        gathered.check_fits(erm, "test.parquet")
    exported = read_checkpoint(folder / model)
    assert torch.equal(exported.network.fc.weight, network.fc.weight)
    assert torch.equal(exported.network.body.bn1.running_mean, network.body.bn1.running_mean)


def test_masks_that_the_dataset_knows(finished, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(finished, folder)
    known = "settings={minibirds: {masks: {source: dataset}}}"
    assert planned(folder, "--config", known) == {"take_masks": 1, "draw_masks": 1, **DAC, **CONFIG}
    snakemake(folder, *MINIMAL, "--config", known)
    masks = read_masks(folder / RUN / "erm/masks/dataset/train.parquet", split="train")
    rows = read_images(folder / "results/minibirds/images.parquet").split("train")
    assert masks.image_id == tuple(rows["image_id"])
    share = unpack(masks.packed, masks.size).double().mean((1, 2))
    assert 0.05 < float(share.min()) < float(share.max()) < 0.3
    assert read_heads(folder / RUN / "dac/heads.safetensors").settings["masks"] == "dataset"


def test_dac_without_images_is_refused(finished, tmp_path):
    folder = tmp_path / "hsfm"
    shutil.copytree(finished, folder)
    features = np.random.default_rng(0).normal(size=(8, 3))
    for split in ("train", "val", "test"):
        np.savez(folder / f"{split}.npz", x=features, y=np.arange(8) % 2, attribute=np.arange(8) // 2 % 2)
    own = {"datasets": ["mine"], "settings": {"mine": {
        "base": "minibirds", "embeddings": {split: f"{split}.npz" for split in ("train", "val", "test")}}}}  # fmt: skip
    (folder / "mine.yaml").write_text(yaml.safe_dump(own))
    done = snakemake(folder, "--dry-run", "--configfile", "mine.yaml", check=False)
    assert done.returncode != 0
    assert "settings/mine: has no images, which DaC needs; set dac to null" in done.stdout
