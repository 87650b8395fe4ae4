from types import SimpleNamespace

import pytest
import yaml
from hsfm_workflow import ROOT
from hsfm_workflow.code import closure, code_of
from hsfm_workflow.config import read_config
from hsfm_workflow.files import downloads, raw_files, stamp
from hsfm_workflow.plan import Plan, in_shard
from hsfm_workflow.report import Results, caption, figure_files, reported, table_files

from hsfm.core.nested import merged


def plan_of(*files: str, **own) -> Plan:
    config = own
    for file in files:
        config = merged(yaml.safe_load((ROOT / "config" / file).read_text()), config)
    return Plan(read_config(config))


@pytest.fixture(scope="module")
def paper() -> Plan:
    return plan_of("paper.yaml")


def job(**wildcards) -> SimpleNamespace:
    return SimpleNamespace(**{"dataset": "minibirds", "run": "0", **wildcards})


def test_datasets_are_told_by_kind(paper):
    assert paper.packed == ["dominoes"]
    assert paper.in_files == ["waterbirds", "celeba", "metashift"]
    assert paper.trained == paper.with_head == paper.with_images == paper.datasets
    assert paper.given == paper.without_head == []


def test_a_frozen_backbone_has_no_head_of_its_own_and_clips_embeddings_are_decoded():
    frozen, clip = plan_of("frozen.yaml"), plan_of("clip.yaml", "paper.yaml")
    assert frozen.trained == clip.trained == []
    assert frozen.without_head == frozen.datasets
    assert clip.with_unclip == ["waterbirds_clip"]


def test_null_leaves_a_method_out():
    assert plan_of().methods_of("minibirds") == ["erm", "dfr", "llr", "cb_llr", "afr", "dac", "tune", "hsfm"]
    assert "afr" not in plan_of(settings={"minibirds": {"afr": None}}).methods_of("minibirds")
    left = Results(plan_of(settings={"minibirds": {"dac": None, "hsfm": None}}))
    assert left.figures_of("minibirds") == ["groups", "tradeoff", "examples", "training"]
    assert left.plan.edits == []


@pytest.mark.parametrize(
    ("batchnorm", "wildcards", "folders"),
    [
        ("frozen", {"method": "dfr"}, ["erm"]),
        ("frozen", {"method": "afr"}, ["afr"]),
        ("frozen", {"method": "dac"}, ["erm"]),
        ("drift", {"method": "dac"}, ["dac/seed0", "dac/seed1", "dac/seed2"]),
        ("drift", {"method": "dac", "seed": "1"}, ["dac/seed1"]),
    ],
)
def test_heads_are_scored_on_the_features_that_they_are_for(batchnorm, wildcards, folders):
    plan = plan_of(settings={"minibirds": {"dac": {"batchnorm": batchnorm}}})
    networks = [f"results/minibirds/run0/{folder}" for folder in folders]
    row, of_job = wildcards["method"], job(**wildcards)
    assert plan.networks(row, of_job) == networks
    heads = networks if len(networks) > 1 or "seed" in wildcards else [f"results/minibirds/run0/{row}"]
    assert plan.heads(row, of_job) == [f"{folder}/heads.safetensors" for folder in heads]


def test_selection_has_a_part_per_row_on_embeddings():
    """Of its method's code alone; the network of AFR has a test split, too."""
    rows = ["dac", {"dfr_both": {"method": "dfr", "on": "both"}}, "afr", "hsfm"]
    plan = plan_of(methods=rows, studies=["selection"], settings={"minibirds": {"hsfm": None}})
    files = [f"results/minibirds/run0/studies/selection_{row}.parquet" for row in ("dfr_both", "afr")]
    assert plan.of_study("selection", "minibirds") == ["results/minibirds/run0/erm/scores.parquet", *files]
    assert set(plan.inputs_of_selection(job(method="afr"))) == {"train", "val", "test", "checkpoint"}
    assert plan.inputs_of_selection(job(method="afr"))["test"] == "results/minibirds/run0/afr/embeddings/test.parquet"
    assert set(plan.inputs_of_selection(job(method="dfr_both"))) == {"train", "val", "test", "heads"}
    code = plan.code_of_row("select_heads")["code"]
    assert code(job(method="dfr_both")) == code_of("select_heads", "hsfm/methods/dfr.py")["code"]
    of_hsfm = "hsfm/methods/hsfm/__init__.py", "hsfm/heads/hard_set.py"
    assert code(job(method="hsfm")) == code_of("select_heads", *of_hsfm)["code"]
    assert not [path for path in closure("workflow/scripts/select_heads.py") if "methods" in path.parts]


def test_settings_of_a_stage_are_plain_values_in_order():
    plan = plan_of()
    assert plan.section("images/sizes")(job()) == {"test": 2000, "train": 4000, "val": 1000}
    assert list(plan.sections("hsfm", "dfr")(job())) == ["dfr", "hsfm"]
    assert "holdout" not in plan.section("erm", without=("holdout",))(job())
    assert {"holdout", "early_epoch"} <= plan.section("erm")(job()).keys()
    for recipe in (None, {"epochs": 20, "schedule": "cosine"}):
        plan = plan_of(settings={"minibirds": {"erm": {"on_share": recipe}}})
        erm, on_share = plan.section("erm", without=("early_epoch", "on_share"))(job()), plan.training_on_share(job())
        assert {k: v for k, v in on_share.items() if k != "on_share"} == erm | (recipe or {})
        assert ("on_share" in on_share) == bool(recipe), "which the note on AFR's network goes by"
    for epoch in (None, 3):
        plan = plan_of(settings={"minibirds": {"erm": {"early_epoch": epoch}}})
        erm = plan.section("erm", unless_null=("early_epoch",))
        assert erm(job()).get("early_epoch", "left out") == (epoch or "left out")


def test_a_stage_of_one_shard_leaves_its_files_at_their_place():
    assert plan_of().sharded("masks", "a/b.parquet") == "a/b.parquet"
    assert plan_of(shards={"masks": 2}).sharded("masks", "a/b.parquet") == in_shard("a/b.parquet")
    assert in_shard("a/b.parquet") == "a/shards/{scatteritem}/b.parquet"


def test_every_table_and_figure_has_a_caption(paper):
    for plan in (paper, plan_of(studies=["selection", "sweep", "ablations", "validation_bias"])):
        shown = Results(plan)
        assert shown.on_page["tables"]
        for file in [*shown.on_page["tables"], *shown.on_page["figures"]]:
            assert caption(file).exists(), file


def test_html_tables_and_png_figures_are_entries_of_snakemakes_report():
    (*numbers, html), (png, pdf) = reported(table_files("main")), reported(figure_files("groups"))
    assert not any(hasattr(file, "flags") for file in (*numbers, pdf))
    table, figure = html.flags["report"], png.flags["report"]
    assert table.caption == str(ROOT / "hsfm/report/captions/tables/main.rst")
    assert (table.category, table.subcategory) == ("Results", "all datasets")
    assert (figure.category, figure.subcategory) == ("Groups", "{dataset}")
    assert figure.labels(job()) == {"result": "Accuracy by group (figure)", "dataset": "minibirds"}


def test_only_what_is_missing_is_downloaded(paper, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [name for name, *_ in downloads(paper.settings)]
    assert "dominoes" in names
    images = paper.settings["dominoes"]["images"]
    for file in raw_files(images):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    assert "dominoes" not in [name for name, *_ in downloads(paper.settings)]


def test_a_small_file_is_told_by_what_it_holds(tmp_path):
    file = tmp_path / "a"
    assert stamp(str(file)) is None
    file.write_text("1")
    first = stamp(str(file))
    file.touch()
    assert stamp(str(file)) == first
    file.write_text("2")
    assert stamp(str(file)) != first
