import json
import os

import numpy as np
import pytest

from hsfm import costs

HEADER = "s\th:m:s\tmax_rss\tmax_vms\tmax_uss\tmax_pss\tio_in\tio_out\tmean_load\tcpu_time\n"


def job(folder, name, seconds, *, cpu=1.0, memory=100.0, gpu=None) -> None:
    """What a job leaves: a benchmark as Snakemake 9 writes it, and a record where gpu is given."""
    path = folder / f"{name}.tsv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{HEADER}{seconds}\t0:00:01\t{memory}\t1\t1\t1\t0.0\t0.0\t99.0\t{cpu}\n")
    if gpu is not None:
        path.with_suffix(".json").write_text(json.dumps({"summary": None, "gpu_memory_mb": gpu}))


@pytest.fixture
def logs(tmp_path):
    for name, seconds in {
        "birds/pack_images": 5,
        "birds/run0/train_erm": 100,
        "birds/run0/read_erm_head": 2,
        "birds/run0/erm/extract_embeddings": 10,
        "birds/run0/build_hard_set": 3,
        "birds/run0/fit_hsfm": 20,
        "birds/run0/make_masks_train": 30,
        "birds/run0/fit_dac_seed0": 40,
        "birds/run0/fit_dac_seed1": 60,
        "birds/run0/dac/seed0/extract_embeddings": 7,
        "birds/run0/gather_heads_dac": 4,
        "birds/run0/score_hsfm": 4,
        "birds/run0/train_on_share": 90,
        "birds/run0/afr/extract_embeddings": 10,
        "birds/run0/fit_afr": 1,
        "birds/learn_token_1": 500,
        "birds/run0/fit_ddb_seed0": 50,
        "birds/run0/sweep_hsfm_0": 1000,
        "make_tables": 1,
    }.items():
        job(tmp_path, name, seconds)
    return tmp_path


def test_jobs_are_told_by_their_names(logs):
    found = costs.read_costs(logs).set_index("job")
    found.index = found.index.str.removeprefix(f"{logs}/")
    assert "make_tables" not in found.index
    row = found.loc["birds/run0/fit_dac_seed1"]
    assert row[["dataset", "run", "stage", "method", "seed", "seconds"]].tolist() == [
        "birds",
        0,
        "fit_dac",
        "dac",
        1,
        60,
    ]
    assert found.loc["birds/pack_images", "method"] == ""
    assert found["run"].isna().sum() == 2
    for name, stage, method in (
        ("birds/run0/make_masks_train", "make_masks", "dac"),
        ("birds/run0/score_hsfm", "score_heads", "hsfm"),
        ("birds/run0/gather_heads_dac", "gather_heads", "dac"),
        ("birds/run0/dac/seed0/extract_embeddings", "extract_embeddings", "dac"),
        ("birds/run0/erm/extract_embeddings", "extract_embeddings", "erm"),
        ("birds/learn_token_1", "learn_token", "ddb"),
        ("birds/run0/fit_afr", "fit_afr", "afr"),
        ("birds/run0/sweep_hsfm_0", "sweep_hsfm", "hsfm"),
        ("birds/run0/read_erm_head", "read_erm_head", "erm"),
    ):
        assert (found.loc[name, "stage"], found.loc[name, "method"]) == (stage, method)
    assert found.loc["birds/run0/dac/seed0/extract_embeddings", "seed"] == 0


def test_time_to_a_head(logs):
    seconds = costs.method_seconds(costs.read_costs(logs)).set_index("method")["seconds"]
    assert seconds["erm"] == 102  # its features are made for the others
    assert seconds["hsfm"] == 112 + 3 + 20
    assert seconds["dac"] == 112 + 30 + (40 + 60) / 2
    assert seconds["afr"] == 90 + 10 + 1
    assert seconds["ddb"] == 112 + 500 + 50


def test_erm_counts_its_features_where_its_head_is_fitted_on_them(tmp_path):
    for name in ("take_backbone", "erm/extract_embeddings", "fit_erm_head"):
        job(tmp_path, f"birds/run0/{name}", 10)
    assert costs.method_seconds(costs.read_costs(tmp_path))["seconds"].tolist() == [30]


def test_shards_add_up_and_those_of_another_cut_are_left_out(tmp_path):
    job(tmp_path, "birds/run0/make_masks_train", 100)
    for shard in (1, 2):
        job(tmp_path, f"birds/run0/make_masks_train_{shard}-of-2", 30)
    os.utime(tmp_path / "birds/run0/make_masks_train.tsv", (1, 1))
    found = costs.read_costs(tmp_path)
    assert found["stage"].tolist() == ["make_masks", "make_masks"]
    assert found["seconds"].sum() == 60
    assert costs.method_seconds(found).set_index("method").loc["dac", "seconds"] == 60
    os.utime(tmp_path / "birds/run0/make_masks_train.tsv")
    for shard in (1, 2):
        os.utime(tmp_path / f"birds/run0/make_masks_train_{shard}-of-2.tsv", (1, 1))
    assert costs.read_costs(tmp_path)["seconds"].tolist() == [100]


def test_what_is_not_known_is_null(tmp_path):
    job(tmp_path, "birds/run0/fit_dfr", "NA", cpu="-", gpu=7.5)
    (tmp_path / "birds/run0/train_erm.json").write_text(json.dumps({"gpu_memory_mb": None}))
    found = costs.read_costs(tmp_path).set_index("stage")
    assert np.isnan(found.loc["fit_dfr", ["seconds", "cpu_seconds"]].astype(float)).all()
    assert found.loc["fit_dfr", "gpu_memory_mb"] == 7.5
    assert np.isnan(found.loc["train_erm", "gpu_memory_mb"])
    assert costs.method_seconds(costs.read_costs(tmp_path))["seconds"].isna().all()
    nothing = costs.read_costs(tmp_path / "deleted")
    assert len(nothing) == len(costs.method_seconds(nothing)) == 0
    assert list(nothing) == costs.COLUMNS


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        ("tsv", "s\n1\n2\n"),
        ("tsv", "s\tcpu_time\n1\n"),
        ("tsv", HEADER + "\t".join(["soon"] * 10)),
        ("json", "{"),
        ("json", "[]"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path, suffix, text):
    path = tmp_path / "birds/run0" / f"fit_dfr.{suffix}"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"fit_dfr\.{suffix}: not a (benchmark|record).*delete it"):
        costs.read_costs(tmp_path)
