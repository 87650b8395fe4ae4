"""Which datasets of the paper's workflow one change concerns; what its stages are is test_reruns.py's matter.

Nothing is computed: every output is a placeholder, which Snakemake was told (--touch) is what its job made.
"""

from pathlib import Path

import pytest
import yaml
from hsfm_workflow.files import DOWNLOADED

from tests.repository import copy_repository, family, snakemake

DATASETS = ("waterbirds", "celeba", "metashift", "dominoes")
WITH_DDB = DATASETS[:3]
PLAN = ["--configfile", "config/paper.yaml"]
RAW = ["waterbird_complete95_forest2water2/metadata.csv", *(f"dominoes/{file}" for file in DOWNLOADED["dominoes"])]


def outputs(folder: Path, *arguments: str) -> list[dict[str, str]]:
    """A row per output of the whole workflow: its file, the rule, and whether it would be made anew."""
    out = snakemake(folder, "--summary", *PLAN, *arguments).stdout
    names, *rows = (line.split("\t") for line in out[out.index("output_file\t") :].splitlines())
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def planned(folder: Path, *arguments: str) -> set[tuple[str, str]]:
    """The rules of jobs that would run, and their dataset, which is empty for what all datasets share."""
    waiting = [row for row in outputs(folder, *arguments) if row["plan"] != "no update"]
    logs = {(family(row["rule"]), row["log-file(s)"]) for row in waiting}
    return {(rule, next((d for d in DATASETS if d in log.split("/")), "")) for rule, log in logs}


def of(datasets, *rules: str) -> set[tuple[str, str]]:
    return {(rule, dataset) for rule in rules for dataset in datasets}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = copy_repository(tmp_path_factory.mktemp("paper") / "hsfm")
    for name in RAW:
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_text(name)
    for row in outputs(folder):
        file = folder / row["output_file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(row["output_file"])
    snakemake(folder, "--touch", "--forceall", *PLAN)
    assert planned(folder) == set()
    return folder


PAGE = {("write_report", "")}
TABLES = {("make_tables", ""), *PAGE}
SCORED = ("score_heads", "draw_scores")
HSFM = ("fit_hsfm", *SCORED, "measure_edits", "draw_figures")
DAC = ("fit_dac", "gather_heads", *SCORED)
RETRAINED = ("fit_ddb", "extract_embeddings", *SCORED)
PRUNED = ("prune_generated", "draw_figures", *RETRAINED)
NETWORK = ("train_erm", "train_on_share", "extract_embeddings", "read_erm_head", "build_hard_set", "fit_dfr", "fit_llr",
           "fit_cb_llr", "fit_tune", "fit_afr", "make_masks", *HSFM, *DAC)  # fmt: skip
NETWORK_WITH_DDB = (*NETWORK, "choose_sources", "segment_objects", "inpaint_objects", *PRUNED)


@pytest.mark.parametrize(
    ("dataset", "section", "change", "jobs"),
    [
        ("dominoes", "hard_set", {"hard_per_class": 9},
         {*of(["dominoes"], "build_hard_set", "fit_tune", *HSFM), *TABLES}),
        ("metashift", "erm", {"epochs": 50}, {*of(["metashift"], *NETWORK_WITH_DDB), *TABLES}),
        ("waterbirds", "dfr", {"fits": 10}, {*of(["waterbirds"], "fit_dfr", *SCORED), *TABLES}),
        ("celeba", "ddb", {"token": {"lr": 0.001}},
         {*of(["celeba"], "learn_token", "inpaint_objects", *PRUNED), *TABLES}),
    ],
)  # fmt: skip
def test_a_changed_setting_of_one_dataset_leaves_the_others_alone(finished, dataset, section, change, jobs):
    (finished / "changed.yaml").write_text(yaml.safe_dump({"settings": {dataset: {section: change}}}))
    assert planned(finished, "changed.yaml") == jobs


@pytest.mark.parametrize(
    ("module", "jobs"),
    [
        ("hsfm/analysis/generated_pictures.py", {*of(DATASETS, "draw_figures"), *PAGE}),
        ("hsfm/methods/ddb/prune.py", {*of(WITH_DDB, *PRUNED), *TABLES}),
        ("hsfm/methods/ddb/inpaint.py", {*of(WITH_DDB, "inpaint_objects", *PRUNED), *TABLES}),
        ("hsfm/models/erm.py", {*of(WITH_DDB, *NETWORK_WITH_DDB), *of(["dominoes"], *NETWORK), *TABLES}),
        ("hsfm/data/sources/celeba.py",
         {*of(["celeba"], "list_images", "decode_images", "describe_images", "learn_token",
              *NETWORK_WITH_DDB),
          *TABLES}),
        ("hsfm/heads/requirements.py", set()),
    ],
)  # fmt: skip
def test_a_changed_module_concerns_the_datasets_that_need_it(finished, edited, module, jobs):
    edited(module, lambda text: f"{text}\nCHANGED = 1\n")
    assert planned(finished) == jobs
