"""Costs and versions out of the logs of jobs."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from hsfm_workflow.report import STAGES

from hsfm.report import costs
from hsfm.report.costs import mean_costs, method_costs, read_costs
from hsfm.report.versions import collect_versions, versions_table
from tests.latex_structure import check_latex

ROOT = Path(__file__).parents[2]

KNOWN = costs.Stages(**STAGES)


def job(folder, name, seconds, *, memory=100.0, **known) -> None:
    """Write the record of a job."""
    path = folder / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"seconds": seconds, "cpu_seconds": 1.0, "memory_mb": memory, **known}))


def read(folder):
    return read_costs(folder, KNOWN)


def seconds(jobs) -> dict[str, float]:
    """Seconds to a head by method."""
    return method_costs(jobs, KNOWN).set_index("method")["seconds"].to_dict()


LOGS = {  # seconds, stage and method by log
    "birds/pack_images": (5, "pack_images", ""),
    "birds/run0/train_erm": (100, "train_erm", "erm"),
    "birds/run0/read_erm_head": (2, "read_erm_head", "erm"),
    "birds/run0/erm/extract_embeddings": (10, "extract_embeddings", "erm"),
    "birds/run0/build_hard_set": (3, "build_hard_set", "hsfm"),
    "birds/run0/fit_hsfm": (20, "fit_hsfm", "hsfm"),
    "birds/run0/make_masks_train": (30, "make_masks", "dac"),
    "birds/run0/fit_dac_seed0": (40, "fit_dac", "dac"),
    "birds/run0/fit_dac_seed1": (60, "fit_dac", "dac"),
    "birds/run0/dac/seed0/extract_embeddings": (7, "extract_embeddings", "dac"),
    "birds/run0/gather_heads_dac": (4, "gather_heads", "dac"),
    "birds/run0/score_heads": (4, "score_heads", ""),
    "birds/run0/train_on_share": (90, "train_on_share", "afr"),
    "birds/run0/afr/extract_embeddings": (10, "extract_embeddings", "afr"),
    "birds/run0/fit_afr": (1, "fit_afr", "afr"),
    "birds/learn_token_1": (500, "learn_token", "ddb"),
    "birds/run0/fit_ddb_seed0": (50, "fit_ddb", "ddb"),
    "birds/run0/sweep_hsfm_0": (1000, "sweep_hsfm", "hsfm"),
}


@pytest.fixture
def logs(tmp_path):
    for name, (took, _, _) in {**LOGS, "make_tables": (1, "", "")}.items():
        job(tmp_path, name, took)
    return tmp_path


def test_jobs_are_told_by_their_names(logs):
    found = read(logs).set_index("job")
    found.index = found.index.str.removeprefix(f"{logs}/")
    assert {name: tuple(row) for name, row in found[["seconds", "stage", "method"]].iterrows()} == LOGS
    assert found["run"].isna().sum() == 2
    seeds = found["seed"].dropna().to_dict()
    assert seeds.pop("birds/run0/fit_dac_seed1") == 1
    assert set(seeds.values()) == {0}


def test_time_to_a_head(logs):
    """ERM's features are made for the others; seeds with jobs of their own count as their mean."""
    assert seconds(read(logs)) == {
        "erm": 102, "hsfm": 112 + 3 + 20, "dac": 112 + 30 + (40 + 60) / 2, "afr": 90 + 10 + 1, "ddb": 112 + 500 + 50
    }  # fmt: skip


def test_time_beyond_erm_is_that_of_the_methods_own_stages(logs):
    """Never below 0: AFR's network is trained on fewer images than ERM's, in less time."""
    found = method_costs(read(logs), KNOWN).set_index("method")[costs.BEYOND]
    assert found.to_dict() == {"erm": 102, "hsfm": 3 + 20, "dac": 30 + 50, "afr": 101, "ddb": 500 + 50}


def test_erm_counts_its_features_where_its_head_is_fitted_on_them(tmp_path):
    for name in ("take_backbone", "erm/extract_embeddings", "fit_erm_head"):
        job(tmp_path, f"birds/run0/{name}", 10)
    assert seconds(read(tmp_path)) == {"erm": 30}


def test_shards_add_up_and_those_of_another_cut_are_left_out(tmp_path):
    job(tmp_path, "birds/run0/make_masks_train", 100)
    for shard in (1, 2):
        job(tmp_path, f"birds/run0/make_masks_train_{shard}-of-2", 30)
    os.utime(tmp_path / "birds/run0/make_masks_train.json", (1, 1))
    assert read(tmp_path)["seconds"].tolist() == [30, 30]
    assert seconds(read(tmp_path)) == {"dac": 60}
    for shard in (1, 2):
        os.utime(tmp_path / f"birds/run0/make_masks_train_{shard}-of-2.json", (0, 0))
    assert read(tmp_path)["seconds"].tolist() == [100]


def test_what_is_not_known_is_null(tmp_path):
    job(tmp_path, "birds/run0/fit_dfr", None, gpu_memory_mb=7.5)
    job(tmp_path, "birds/run0/train_erm", 1, gpu_memory_mb=None)
    found = read(tmp_path).set_index("stage")
    assert np.isnan(found.loc["fit_dfr", "seconds"])
    assert found.loc["fit_dfr", "gpu_memory_mb"] == 7.5
    assert np.isnan(found.loc["train_erm", "gpu_memory_mb"])
    assert np.isnan(seconds(read(tmp_path))["dfr"])
    nothing = read(tmp_path / "deleted")
    assert len(nothing) == len(method_costs(nothing, KNOWN)) == 0
    assert list(nothing) == costs.COLUMNS
    table = costs.costs_table(mean_costs(method_costs(nothing, KNOWN), {"birds": ["erm"]}))
    assert [[cell.text for cell in row[2:]] for row in table.rows] == [["-"] * 5]
    assert versions_table(collect_versions(nothing)).rows == costs.stages_table(costs.stage_costs(nothing)).rows == ()


def test_stages_are_named_as_their_rules(tmp_path):
    """Of every rule, with several shards or one: what its jobs leave behind is found as that rule's."""
    wildcards = {"dataset": "birds", "run": "3", "network": "erm", "split": "val", "seed": "7", "method": "dfr",
                 "label": "1", "part": "0", "figure": "groups", "study": "sweep"}  # fmt: skip
    known = {}
    for file in (ROOT / "workflow/rules").glob("*.smk"):
        rules = r"^ *use rule \w+ as (\w+) with:\n(.*?)(?=^ *(?:use )?rule\b|\Z)"
        for rule, body in re.findall(rules, file.read_text(), re.M | re.S):
            for path in re.findall(r'log:\s+f?"logs/(\{+dataset.*?)\.log"', body):
                path = re.sub(r"\{plan\.log_suffix\('\w+'\)\}", "_2-of-4" if "extract" in rule else "", path)
                known[path.replace("{{", "{").replace("}}", "}").format(**wildcards)] = rule
    assert len(known) > 30
    for path in known:
        job(tmp_path, path, 1)
    found = read(tmp_path)
    stages = {str(Path(row.job).relative_to(tmp_path)): row.stage for row in found.itertuples()}
    for path, rule in known.items():
        # several rules draw, each a figure by its name
        assert stages[path] == (rule if not path.split("/")[-1].startswith("draw_") else stages[path]), path
    assert {row.stage for row in found.itertuples() if row.method == "hsfm"} <= set(known.values())
    assert set(KNOWN.of_method) <= set(known.values())
    assert (found["run"].dropna() == 3).all()


def test_tables_of_costs(logs):
    jobs = read(logs)
    summary = mean_costs(method_costs(jobs, KNOWN), {"birds": ["erm", "dac", "llr"]})
    table = costs.costs_table(summary)
    assert [[cell.text for cell in row] for row in table.rows[1:]] == [
        ["birds", "DaC", "3 min 12 s", "1 min 20 s", "5 s", "100 MB", "-"], ["birds", "LLR", *["-"] * 5]
    ]  # fmt: skip
    assert "which may be deleted" in table.markdown()
    stages = costs.stage_costs(jobs)
    assert stages.set_index("stage").loc["fit_dac", ["jobs", "seconds"]].tolist() == [2, 100]
    text = costs.stages_table(stages)
    assert ["birds", "pack_images", "all", "1", "5 s"] in [[cell.text for cell in row[:5]] for row in text.rows]
    check_latex(table.latex("tab:costs"))


def test_means_over_runs(tmp_path):
    for run, seconds in ((0, 10), (1, 30)):
        job(tmp_path, f"birds/run{run}/train_erm", seconds, memory=seconds, gpu_memory_mb=float(seconds))
    summary = mean_costs(method_costs(read(tmp_path), KNOWN), {"birds": ["erm"]})
    assert summary[["seconds", "memory_mb", "gpu_memory_mb"]].to_numpy().tolist() == [[20, 30, 30]]


def test_numbers_are_shown_in_words_and_sorted_by_their_size():
    assert [costs.measured(n).text for n in (8.44, 720.0, -90.0, np.nan)] == ["8.4 s", "12 min", "-1 min 30 s", "-"]
    assert [costs.measured(n, costs.megabytes).text for n in (806.4, 1234.0)] == ["806 MB", "1.2 GB"]
    assert costs.measured(720.0).order == 720.0


def record(folder, name, device="cpu", **versions) -> None:
    known = {"hsfm": "0.1", "python": "3.11.2", "commit": 16 * "ab", "dirty": False, "cuda": None, **versions}
    job(folder, name, 1, device=device, versions=known)


def test_a_row_per_version_of_each_part(tmp_path):
    """A job counts for what it could tell; stages are said where they differ."""
    record(tmp_path, "birds/pack_images", commit=None, dirty=None)
    record(tmp_path, "birds/run0/train_erm", "NVIDIA H100", torch="2.12", dirty=True)
    record(tmp_path, "birds/run0/fit_dfr", torch="2.12")
    job(tmp_path, "birds/run0/fit_llr", 1)  # of before versions were recorded
    rows = [tuple(cell.text for cell in row) for row in versions_table(collect_versions(read(tmp_path))).rows]
    assert set(rows) == {
        ("hsfm", "0.1", "all", "3"), ("Python", "3.11.2", "all", "3"), ("torch", "2.12", "all", "2"),
        ("commit", "abababababab", "birds/fit_dfr", "1"),
        ("commit", "abababababab + changes", "birds/train_erm", "1"),
        ("device", "cpu", "birds/pack_images, birds/fit_dfr", "2"), ("device", "NVIDIA H100", "birds/train_erm", "1"),
    }  # fmt: skip


def test_rows_may_end_in_a_number_or_a_split(tmp_path):
    for name in ("fit_dfr", "fit_dfr_2", "fit_dfr_val"):
        job(tmp_path, f"birds/run0/{name}", 1)
    assert set(read(tmp_path)["method"]) == {"dfr", "dfr_2", "dfr_val"}


def test_jobs_of_the_plan_alone(tmp_path):
    for name in ("fish/run0/fit_hsfm", "birds/run0/fit_hsfm", "birds/run1/fit_hsfm", "birds/pack_images",
                 "birds/run0/fit_dac_seed0", "birds/run0/fit_dac_seed7", "birds/draw_groups", "birds/describe_images",
                 "birds/run0/decode_edits", "birds/run0/export_hsfm", "cats/run0/fit_hsfm"):  # fmt: skip
        job(tmp_path, name, 1)
    found = costs.of_plan(read(tmp_path), ["fish", "birds"], [0], [0], KNOWN)
    assert found["dataset"].tolist() == ["fish"] + ["birds"] * 3
    assert sorted(found["job"].str.removeprefix(f"{tmp_path}/birds/")[1:]) == [
        "pack_images", "run0/fit_dac_seed0", "run0/fit_hsfm"
    ]  # fmt: skip
