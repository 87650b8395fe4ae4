"""Stages cut into shards, through the whole workflow: jobs, and the bytes of what they end in."""

import shutil
from pathlib import Path

import yaml

from tests.repository import MINIMAL, RUN, copy_repository, jobs_of_last_run, snakemake

# so few images in a batch that there are several parts to share
SETTINGS = {
    "embeddings": {"batch_size": 20},
    "masks": {"batch_size": 4},
    "ddb": {
        "sources_per_class": 40,
        "cut_paste": {"masks": "heat_map"},
        "retrain": {"batch_size": 16, "epochs": 1},
    },
}
EMBEDDINGS = [f"{RUN}/erm/embeddings/{split}.parquet" for split in ("train", "val", "test")]
TARGETS = [*EMBEDDINGS, f"{RUN}/erm/masks/heat_map/train.parquet", f"{RUN}/ddb/generated.parquet"]
SHARDS = {"embedding": 4, "masks": 4, "generation": 2}  # of 4, 3 and 3 batches: val and masks have a shard without any


def arguments(folder: Path, **shards: int) -> list[str]:
    config = {"methods": ["erm", "dac", "ddb", "hsfm"], "shards": shards, "settings": {"minibirds": SETTINGS}}
    (folder / "shards.yaml").write_text(yaml.safe_dump(config))
    return [*MINIMAL, "config/ddb.yaml", "shards.yaml", "--"]


def test_each_stage_cut_into_shards_ends_in_the_same_bytes(tmp_path):
    whole = copy_repository(tmp_path / "whole")  # in which one job does each stage
    snakemake(whole, *arguments(whole), *TARGETS)
    folder = shutil.copytree(whole, tmp_path / "hsfm")
    command = [*arguments(folder, **SHARDS), *TARGETS]
    snakemake(folder, *command)
    ran = jobs_of_last_run(folder)
    for rule, n in (("extract_embeddings", 4), ("gather_embeddings", 1), ("make_masks", 4), ("gather_masks", 1),
                    ("paste_objects", 2), ("gather_generated", 1)):  # fmt: skip
        assert ran.count(rule) == n, rule
    for path in TARGETS:
        assert (folder / path).read_bytes() == (whole / path).read_bytes(), path
    left = [path for path in (folder / "results").rglob("*") if path.name == "shards" or path.name.startswith(".")]
    assert not left
    # the shards are gone, and there is nothing to do all the same
    assert "Nothing to be done" in snakemake(folder, "--dry-run", *command).stdout
