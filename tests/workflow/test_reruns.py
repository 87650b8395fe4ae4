"""Reruns after a change: the rules of a dry run on the finished minimal run."""

import os
import shutil

import pytest
import yaml
from hsfm_workflow.config import read_config
from hsfm_workflow.plan import Plan

from hsfm.core.nested import merged
from tests.repository import MINIMAL, rules_planned

PAGE = {"write_report"}
TABLES = {"make_tables", *PAGE}
EDITS = {"measure_edits", "draw_figures", *TABLES}
SCORED = {"score_heads", "draw_scores", *TABLES}
HSFM = {"fit_hsfm", *SCORED, *EDITS}
DAC = {"fit_dac", "gather_heads", *SCORED}
MASKS = {"make_masks", "draw_figures", *DAC}
AFR = {"fit_afr", *SCORED}
FITS = {"fit_afr", "fit_dfr", "fit_llr", "fit_cb_llr", "fit_tune", *HSFM}
HEADS = {"read_erm_head", "build_hard_set", *FITS, *MASKS}
DRAWINGS = {"describe_images", "draw_scores", "draw_figures"}
TRAINING = {"train_erm", "train_on_share", "extract_embeddings", *HEADS}
IMAGES = {"pack_images", "describe_images", *TRAINING}


def planned(folder, *arguments: str) -> set[str]:
    return rules_planned(folder, *MINIMAL, *arguments)


@pytest.mark.parametrize(
    ("setting", "jobs"),
    [
        ("hsfm: {inner_lr: 0.002}", {"fit_tune", *HSFM}),  # which takes HSFM's
        ("hsfm: {outer_lr: 0.5}", HSFM),
        ("hard_set: {hard_per_class: 9}", {"build_hard_set", "fit_tune", *HSFM}),
        ("dfr: {fits: 3}", {"fit_dfr", *SCORED}),
        ("dac: {alpha: 3}", DAC),
        ("edits: {neighbors: 4}", EDITS),
        ("masks: {fallback: 0.7}", MASKS),
        ("erm: {epochs: 3}", TRAINING),
        ("erm: {holdout: 0.3}", {"train_on_share", "extract_embeddings", *AFR}),
        ("images: {seed: 5}", IMAGES),
        ("afr: null", SCORED),
    ],
)
def test_a_changed_setting_reruns_its_stage_and_what_follows(finished, setting, jobs):
    arguments = ("--config", f"settings={{minibirds: {{{setting}}}}}", "training_gpus=2")  # the latter of the machine
    assert planned(finished, *arguments) == {*jobs, *PAGE}


@pytest.mark.parametrize(
    ("file", "jobs"),
    [
        ("hsfm/methods/hsfm/train.py", HSFM),
        ("hsfm/methods/dfr.py", {"fit_dfr", *SCORED}),
        ("hsfm/methods/dac/fit.py", {*DAC, "draw_figures"}),
        ("hsfm/methods/dac/masks.py", MASKS),
        ("hsfm/heads/logistic_regression.py", {"fit_dfr", "fit_llr", "fit_cb_llr", *AFR}),
        ("hsfm/heads/head.py", HEADS),
        ("hsfm/report/uncertainty.py", {"make_tables", *PAGE}),
        ("hsfm/report/page.py", PAGE),
        ("hsfm/report/templates/report.css", PAGE),
        ("hsfm/report/hsfm.mplstyle", {*DRAWINGS, *PAGE}),
        ("hsfm/analysis/edits.py", EDITS),
        ("hsfm/models/erm.py", TRAINING),
        ("hsfm/data/sources/minibirds.py", IMAGES),
        ("workflow/scripts/fit_method.py", FITS),
        ("hsfm/report/captions/figures/groups.rst", PAGE),
    ],
)
def test_changed_code_reruns_the_rules_that_import_it_and_what_follows(finished, edited, file, jobs):
    """By its text: its date is that of an archive, before all results."""
    edited(file, lambda text: text + ("\nCHANGED = True\n" if file.endswith(".py") else "\n/* changed */\n"))
    os.utime(finished / file, (0, 0))
    assert planned(finished) == jobs


def test_what_changes_no_result_reruns_nothing(copied):
    """Dates, docstrings, comments, imports of the package, the order of settings, other forms of numbers, logs."""
    for module in ("hsfm/core/files.py", "hsfm/methods/hsfm/train.py", "workflow/scripts/train_erm.py"):
        text = (copied / module).read_text()
        assert '"""' in text
        (copied / module).write_text("# Reworded.\n" + text.replace('"""', '"""In other words. ', 1))
    (copied / "hsfm/__init__.py").write_text((copied / "hsfm/__init__.py").read_text() + "\nCHANGED = 1\n")
    (copied / "hsfm/methods/dfr.py").touch()
    config, minimal = copied / "config/config.yaml", copied / "config/minimal.yaml"
    config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()), sort_keys=True))
    minimal.write_text(minimal.read_text().replace("inner_steps: 2\n", "inner_steps: 2\n      inner_lr: 5e-4\n"))
    shutil.rmtree(copied / "logs")
    assert planned(copied) == set()


def test_a_saved_configuration_gives_the_same_again_and_holds_what_a_dataset_inherits(copied):
    """`base`, short numbers and the command line are gone into it; what was not chosen is left out."""
    assert rules_planned(copied, "--configfile", "results/config.yaml") == set()
    own = {"base": "minibirds", "images": {"source": "minibirds", "sizes": {"train": 80, "val": 48, "test": 48},
           "agreement": {"train": 0.8, "val": 0.5, "test": 0.5}, "image_size": 32, "hardness": 0.15, "seed": 3},
           "hsfm": {"inner_lr": "5e-4"}}  # fmt: skip
    (copied / "mine.yaml").write_text(yaml.safe_dump({"datasets": ["mine"], "settings": {"mine": own}}))
    arguments = ["--configfile", "config/minimal.yaml", "mine.yaml", "--config", "runs=[0, 1]"]
    overlays = [yaml.safe_load((copied / file).read_text()) for file in ("config/minimal.yaml", "mine.yaml")]
    saved = Plan(read_config({**merged(*overlays), "runs": [0, 1]})).saved_config
    (copied / "results/config.yaml").write_text(yaml.safe_dump(saved))
    assert (saved["datasets"], saved["runs"], list(saved["settings"])) == (["mine"], [0, 1], ["mine"])
    assert saved["settings"]["mine"]["hsfm"]["inner_lr"] == 0.0005
    assert saved["settings"]["mine"]["dac"]["batch_size"] == 16
    plans = [rules_planned(copied, *arguments), rules_planned(copied, "--configfile", "results/config.yaml")]
    assert plans[0] == plans[1]
    assert "train_erm" in plans[0]
