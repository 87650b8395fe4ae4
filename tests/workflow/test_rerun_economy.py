"""Jobs of the paper's workflow that one change reruns: four datasets, three backbones each, three seeds, all methods.

Nothing is computed: every output is a placeholder, which Snakemake was told (--touch) is what its job made.
"""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from tests.repository import copy_repository, family, snakemake

DATASETS = ("waterbirds", "celeba", "metashift", "dominoes")
WITH_DDB = DATASETS[:3]
PLAN = ["--configfile", "config/paper.yaml", "three.yaml"]
RAW = [
    "waterbird_complete95_forest2water2/metadata.csv",
    *(
        f"dominoes/MNIST/raw/{part}-{kind}-ubyte"
        for part in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    ),
    *(f"dominoes/cifar-10-batches-py/data_batch_{number}" for number in range(1, 6)),
    "dominoes/cifar-10-batches-py/test_batch",
]

Jobs = dict[tuple[str, str], int]  # by rule and dataset, which is empty for what all datasets share


def outputs(folder: Path, *arguments: str) -> list[dict[str, str]]:
    """A row per output of the whole workflow: its file, the rule, and whether it would be made anew."""
    out = snakemake(folder, "--summary", *PLAN, *arguments).stdout.splitlines()
    table = out[next(number for number, line in enumerate(out) if line.startswith("output_file\t")) :]
    names, *rows = (line.split("\t") for line in table)
    return [dict(zip(names, row, strict=True)) for row in rows if len(row) == len(names)]


def planned(folder: Path, *arguments: str) -> Jobs:
    """Jobs that would run. A job is told from others of its rule by its log."""
    waiting = [row for row in outputs(folder, *arguments) if row["plan"] != "no update"]
    jobs = {(family(row["rule"]), row["log-file(s)"]) for row in waiting}
    return dict(Counter((rule, next((d for d in DATASETS if d in log.split("/")), "")) for rule, log in jobs))


def every(jobs: dict[str, int], datasets=DATASETS) -> Jobs:
    return {(rule, dataset): n for rule, n in jobs.items() for dataset in datasets}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = copy_repository(tmp_path_factory.mktemp("paper") / "hsfm")
    (folder / "three.yaml").write_text(yaml.safe_dump({"runs": [0, 1, 2]}))
    for name in RAW:
        (folder / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "data" / name).write_text(name)
    for row in outputs(folder):
        file = folder / row["output_file"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(row["output_file"])
    snakemake(folder, "--touch", "--forceall", *PLAN)
    assert planned(folder) == {}
    return folder


@pytest.fixture
def changed(finished):
    """Change a module, and have it back afterwards."""
    before = {}

    def change(module: str) -> None:
        before[module] = (finished / module).read_text()
        (finished / module).write_text(before[module] + ("\nCHANGED = 1\n" if module.endswith(".py") else "\n# 1\n"))

    yield change
    for module, text in before.items():
        (finished / module).write_text(text)


def with_settings(folder: Path, **settings) -> list[str]:
    """One more overlay."""
    (folder / "changed.yaml").write_text(yaml.safe_dump({"settings": settings}))
    return ["changed.yaml"]


# What follows from new heads of one method on one dataset. Where it has heads of one seed each, three runs have nine.
PAGE = {("write_report", ""): 1}
TABLE = {("make_tables", ""): 1, ("describe_results", ""): 1, **PAGE}
CONFIG = {("save_config", ""): 1}  # of changed settings
SCORED = {"score_heads": 3, "draw_scores": 1}
EDITS = {"measure_edits": 3, "draw_edits": 1}
HSFM = {"fit_hsfm": 3, **SCORED, "draw_figure": 2, "draw_method": 1, **EDITS}  # groups, training, hard_set
TABLES = {**TABLE, ("tabulate_edits", ""): 1}
DAC = {"fit_dac": 9, "gather_heads": 3, **SCORED, "draw_figure": 1}  # groups, training
RETRAINED = {"fit_ddb": 9, "extract_embeddings": 9, **SCORED, "draw_figure": 1}
PRUNED = {"prune_generated": 3, "draw_generated": 1, **RETRAINED}
AFR = {"fit_afr": 3, **SCORED, "draw_figure": 1}
NEW_NETWORK = {  # of ERM, and AFR's with it
    "train_on_share": 3, "extract_embeddings": 6, "read_erm_head": 3, "build_hard_set": 3, "fit_dfr": 3, "fit_llr": 3,
    "make_masks": 3, "draw_masks": 1, **HSFM, **DAC, **AFR, "score_heads": 18, "draw_figure": 2,
}  # fmt: skip
NEW_NETWORK_WITH_DDB = {
    "choose_sources": 3, "segment_objects": 3, "inpaint_objects": 3, **PRUNED, **NEW_NETWORK, "extract_embeddings": 15,
    "score_heads": 21, "draw_figure": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("dataset", "section", "change", "jobs"),
    [
        ("celeba", "hsfm", {"inner_lr": 0.0001}, {**every(HSFM, ["celeba"]), **TABLES}),
        ("dominoes", "hard_set", {"hard_per_class": 9},
         {**every({"build_hard_set": 3, **HSFM}, ["dominoes"]), **TABLES}),
        ("metashift", "erm", {"epochs": 50},
         {**every({"train_erm": 3, **NEW_NETWORK_WITH_DDB}, ["metashift"]), **TABLES}),
        ("dominoes", "erm", {"epochs": 50}, {**every({"train_erm": 3, **NEW_NETWORK}, ["dominoes"]), **TABLES}),
        ("dominoes", "erm", {"holdout": 0.3},
         {**every({"train_on_share": 3, "extract_embeddings": 3, **AFR}, ["dominoes"]), **TABLE}),
        ("celeba", "afr", {"steps": 50}, {**every(AFR, ["celeba"]), **TABLE}),
        ("waterbirds", "dfr", {"fits": 10}, {**every({"fit_dfr": 3, **SCORED}, ["waterbirds"]), **TABLE}),
        ("waterbirds", "dac", {"alpha": 3}, {**every(DAC, ["waterbirds"]), **TABLE}),
        ("waterbirds", "ddb", {"retrain": {"lr": 0.0001}}, {**every(RETRAINED, ["waterbirds"]), **TABLE}),
        ("celeba", "ddb", {"token": {"lr": 0.001}},
         {**every({"learn_token": 2, "inpaint_objects": 3, **PRUNED}, ["celeba"]), **TABLE}),
        ("celeba", "edits", {"neighbors": 4},
         {**every(EDITS, ["celeba"]), ("tabulate_edits", ""): 1, ("describe_results", ""): 1, **PAGE}),
    ],
)  # fmt: skip
def test_a_changed_setting_of_one_dataset_reruns_its_stage_and_what_follows(finished, dataset, section, change, jobs):
    assert planned(finished, *with_settings(finished, **{dataset: {section: change}})) == {**jobs, **CONFIG}


EVERY_PICTURE = {
    **every({"draw_figure": 3, "draw_scores": 1, "draw_method": 1, "draw_masks": 1, "draw_edits": 1}),
    **every({"draw_generated": 1}, WITH_DDB),
    **PAGE,
}


@pytest.mark.parametrize(
    ("module", "jobs"),
    [
        ("hsfm/report/figures.py", EVERY_PICTURE),
        ("hsfm/report/style.py", EVERY_PICTURE),
        ("hsfm/report/hsfm.mplstyle", EVERY_PICTURE),
        ("hsfm/report/comparison_figures.py", {**every({"draw_scores": 1}), **PAGE}),
        ("hsfm/report/edit_figures.py", {**every({"draw_edits": 1}), **PAGE}),
        ("hsfm/report/histories.py", {**every({"draw_figure": 3, "draw_method": 1}), **PAGE}),
        ("hsfm/analysis/edit_pictures.py", {**every({"draw_edits": 1}), **PAGE}),
        ("hsfm/analysis/mask_pictures.py", {**every({"draw_masks": 1}), **PAGE}),
        ("hsfm/analysis/method_panels.py", {**every({"draw_method": 1}), **PAGE}),
        ("hsfm/analysis/generated_pictures.py", {**every({"draw_generated": 1}, WITH_DDB), **PAGE}),
        ("hsfm/report/accuracy_tables.py", {("make_tables", ""): 1, **PAGE}),
        ("hsfm/report/tables.py", {**every({"draw_scores": 1}), ("make_tables", ""): 1, **PAGE}),
        ("hsfm/report/published.py", {("make_tables", ""): 1, **PAGE}),
        ("hsfm/report/versions.py", {("describe_results", ""): 1, **PAGE}),
        ("hsfm/report/page.py", PAGE),
        ("hsfm/core/text_tables.py", {**every({"draw_scores": 1}), **TABLES}),
        ("hsfm/methods/hsfm/train.py", {**every(HSFM), **TABLES}),
        ("hsfm/methods/dac/fit.py", {**every({**DAC, "draw_masks": 1}), **TABLE}),
        ("hsfm/methods/ddb/fit.py", {**every(RETRAINED, WITH_DDB), **TABLE}),
        ("hsfm/methods/ddb/prune.py", {**every(PRUNED, WITH_DDB), **TABLE}),
        ("hsfm/methods/ddb/inpaint.py", {**every({"inpaint_objects": 3, **PRUNED}, WITH_DDB), **TABLE}),
        ("hsfm/models/erm.py", {
            **every({"train_erm": 3, **NEW_NETWORK}, ["dominoes"]),
            **every({"train_erm": 3, **NEW_NETWORK_WITH_DDB}, WITH_DDB),
            **TABLES,
        }),
        ("hsfm/data/sources/celeba.py", {
            **every({"list_images": 1, "decode_images": 1, "learn_token": 2, "train_erm": 3, **NEW_NETWORK_WITH_DDB,
                     "draw_figure": 3}, ["celeba"]),
            **TABLES,
        }),
        ("hsfm/__init__.py", {}),
    ],
)  # fmt: skip
def test_a_changed_module_reruns_the_rules_that_import_it_and_what_follows(finished, changed, module, jobs):
    changed(module)
    assert planned(finished) == jobs
