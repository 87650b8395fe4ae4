import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from benchmarks import (
    dac,
    ddb,
    edits,
    held_out_choice,
    idfr,
    idfr_beyond,
    idfr_gate,
    meta,
    overhead,
    paper,
    same_heads,
    scale,
    throughput,
    validation_bias,
    wild_columns,
)
from hsfm.methods.hsfm import Settings
from tests.conftest import planted


@pytest.fixture
def printed(monkeypatch, capfd):
    """Run a benchmark's main with arguments: the lines that it prints, or the cells of those that begin so."""

    def run(module, *arguments: str, rows: tuple[str, ...] = ()) -> list:
        monkeypatch.setattr(sys, "argv", [module.__name__, *arguments])
        module.main()
        lines = capfd.readouterr().out.splitlines()
        return [re.split(r" *\| *", line)[1:-1] for line in lines if line.startswith(rows)] if rows else lines

    return run


def numbers(cells: list[str]) -> list[float]:
    return [float(re.sub(r"[ ,%]|/ s", "", cell)) for cell in cells if cell]


def test_the_engine_is_timed_against_the_loop(monkeypatch, printed):
    settings = Settings(support_per_class=4, inner_steps=2, support_steps=2, epochs=2, inner_lr=1e-3)
    monkeypatch.setattr(meta, "SHAPES", {"tiny": meta.Shape(60, 40, 8, settings, 5, (1, 3))})
    rows = printed(meta, rows=("| tiny",))
    assert [(int(row[1]), row[4]) for row in rows] == [(1, "compiled"), (3, "compiled")]
    assert all(value > 0 for row in rows for value in numbers(row[2:4] + row[5:7]))


def test_settings_of_the_paper_are_read():
    settings, hard_per_class = paper.settings_of("celeba")
    assert (settings.support_per_class, settings.inner_lr, hard_per_class) == (1024, 5e-5, 256)


def test_stages_are_timed_against_the_network_alone_and_a_loop_of_ones_own(monkeypatch, printed):
    crop = {"random_resized_crop": {"size": [32, 32], "scale": [0.7, 1.0], "ratio": [0.75, 1.33]}}
    crop |= {"random_crop": None, "flip": True}
    small = {"resize": [40, 40], "crop": [32, 32], **throughput.IMAGENET}
    tiny = {
        "embedding": throughput.Case("resnet18", small, crop, 8, True, False, 16, 8),
        "training": throughput.Case("small_resnet", throughput.AT_64, throughput.NO_CROP, 8, False, True, 16, 8),
    }
    monkeypatch.setattr(throughput, "cases", lambda on_cpu: tiny)
    rows = printed(throughput, "--rounds", "1", "--cores", "1", "--device", "cpu", rows=("| emb", "| tra"))
    assert [row[0] for row in rows] == ["embedding", "training"]
    assert all(value > 0 for row in rows for value in numbers(row[1:]))
    assert [bool(row[3]) for row in rows] == [False, True]


def test_masks_are_timed_against_embedding(monkeypatch, printed):
    sizes = {**dac.SETTINGS["images"], "image_size": 32}
    monkeypatch.setattr(dac, "SETTINGS", {**dac.SETTINGS, "images": sizes})
    monkeypatch.setattr(dac, "SIZES", {"small_resnet": ("minibirds", 8)})
    (row,) = printed(dac, "--time", "--rounds", "1", "--device", "cpu", rows=("| 8 of minibirds",))
    embedding, masks, ratio = numbers(row[1:4])
    assert min(embedding, masks) > 0
    assert ratio > 1


def test_the_inpainting_stage_is_timed_against_the_pipeline(printed):
    small = ["--channels", "8", "--size", "16", "--steps", "2", "--images", "5", "--batch-size", "2", "--rounds", "1"]
    (line,) = printed(ddb, "--device", "cpu", *small)
    assert all(float(number) > 0 for number in re.search(r"pipeline (.+) s, stage (.+) s, ratio (.+)", line).groups())


def test_measuring_edits_is_timed(printed):
    small = ["--rows", "200", "--val", "60", "--features", "16", "--support", "20", "--seeds", "2", "--threads", "1"]
    (line,) = printed(edits, *small)
    assert all(float(number) > 0 for number in re.fullmatch(r"([0-9.]+) s, ([0-9.]+) GB at most", line).groups())


def test_the_workflows_overhead_is_what_no_script_works_in(printed):
    assert overhead.covered([(0, 2), (1, 3), (5, 6), (5.5, 5.7)]) == 4
    target = ["--", "results/minibirds/pixels.npy", "--configfile", "config/minimal.yaml"]
    row, stage = printed(overhead, "--cores", "1", "--stages", *target)[-2:]
    cores, jobs, wall, work, busy, share = numbers(row.split("|")[1:-1])
    assert (cores, jobs) == (1, 1)
    assert 0 < busy == work < wall
    assert share == pytest.approx(100 * (1 - busy / wall), abs=1)
    assert re.fullmatch(r"pack_images: 1 jobs, [0-9.]+ s of loading, [0-9.]+ s of work", stage)


def test_memory_of_stages_that_grow_is_measured(tmp_path, capsys):
    scale.write_rows(tmp_path, 240, 8)
    for stage in scale.STAGES:
        scale.run_stage(stage, str(tmp_path))
        peak, seconds = map(float, capsys.readouterr().out.split())
        assert peak > 2**20
        assert seconds > 0


def test_the_cost_of_a_large_dataset_follows_from_its_size_and_two_rates():
    rows = {row[0]: row[1:] for row in scale.stages(scale.CASES[0], forward=2500, inpainting=2, hours=4)}
    assert rows["extract_embeddings"][0] == "10.5 GB"  # 1,281,167 x 2048 x 4 bytes
    assert float(rows["train_erm"][1]) == pytest.approx(90 * 3 * 1_281_167 / 2500 / 3600, abs=0.05)
    assert rows["inpaint_objects"][1:] == ["666.7", "167"]  # 1000 x 300 x 4 images, 2 s each, in jobs of 4 h


def test_results_that_differ_in_one_bit_are_named(tmp_path):
    heads = {"weight": torch.randn(2, 3, 4), "bias": torch.zeros(2, 3)}
    scores = pd.DataFrame(
        {"dataset": "d", "run": 0, "method": "m", "seed": [0, 1], "split": "test", "y": 0, "attribute": 1}
        | {"n": 4, "correct": [1, 2], "accuracy": [0.25, 0.5]}
    )
    for side in ("before", "after"):
        (tmp_path / side / "m").mkdir(parents=True)
        save_file(heads, tmp_path / side / "m/heads.safetensors")
        scores[::-1].to_parquet(tmp_path / side / "m/scores.parquet")
    sides = tmp_path / "before", tmp_path / "after"
    assert list(same_heads.differences(*sides)) == [], "the order of rows is no difference"
    weight = heads["weight"].clone()
    weight[1, 2, 3] = torch.nextafter(weight[1, 2, 3], torch.tensor(9.0))
    save_file({**heads, "weight": weight}, sides[1] / "m/heads.safetensors")
    scores.assign(correct=[1, 3]).to_parquet(sides[1] / "m/scores.parquet")
    first, second = same_heads.differences(*sides)
    assert first.startswith("m/heads.safetensors: weight differs by up to ")
    assert second == "m/scores.parquet: 2 rows of scores differ"
    (sides[1] / "m/scores.parquet").unlink()
    assert "m/scores.parquet: only before" in list(same_heads.differences(*sides))
    assert len(list(same_heads.differences(tmp_path / "none", tmp_path / "none"))) == 2, "nothing is not equal"


@pytest.fixture
def mine(tmp_path):
    """Files of a set, by their beginning."""
    for seed, (split, counts) in enumerate({"train": [190, 10, 10, 190], "val": [60] * 4, "test": [60] * 4}.items()):
        part = planted(split, counts, seed=seed)
        np.savez(tmp_path / f"mine_{split}.npz", x=part.features.numpy(), y=part.y.numpy(), attribute=part.attribute)
    return str(tmp_path / "mine")


def test_the_gate_of_idfr_is_counted(mine, tmp_path, printed, monkeypatch):
    small = ("--rows", "600", "--d", "4")
    rows = printed(idfr, "level", mine, "--draws", "2", *small, rows=("| Gauss", "| mine", "| 5 %"))
    assert [row[0] for row in rows] == ["Gaussian", "mine, no minority row", "5 %"]
    assert all(row[-2] == "0 of 2" for row in rows)
    monkeypatch.setattr(idfr_gate, "MINORITY", (5, 50))
    monkeypatch.setattr(idfr_gate, "DISTANCES", (3, 6))
    file = tmp_path / "power.png"
    rows = printed(idfr, "power", mine, "--draws", "1", *small, "--out", str(file), rows=("| 3 ", "| 6 ", "| mine"))
    assert [row[1] for row in rows] == ["5", "50", "5", "50", "5"]
    assert rows[0][2:4] == ["0 of 1", "0.0 to 97.5 %"]
    assert rows[3][2] == "1 of 1"
    assert file.stat().st_size > 0


def test_idfr_is_measured_where_its_assumption_fails(mine, printed, monkeypatch):
    chosen = ("a value for each class", "two attributes")
    monkeypatch.setattr(idfr_beyond, "SHARES", {name: idfr_beyond.SHARES[name] for name in chosen})
    monkeypatch.setattr(idfr_beyond, "THINNED", chosen[:1])
    rows = printed(idfr_beyond, mine, "--draws", "1", rows=("| a", "| two", "| mine"))
    assert [row[0] for row in rows] == [*chosen, *(f"mine, {name}" for name in chosen[:1])]
    alone, both = rows[0], rows[1]
    assert alone[-1] == both[-1] == "dfr 1"
    assert float(alone[5].split()[0]) > -3
    assert float(both[5].split()[0]) < -10, "one attribute is found, not two"
    assert abs(float(both[6].split()[0])) < 5


def test_hints_and_times_of_idfr(printed, monkeypatch):
    monkeypatch.setattr(idfr, "HINTS", (0, 20))
    monkeypatch.setattr(idfr, "HINTED", {"overlapping": idfr.HINTED["overlapping attribute"]})
    ours, probe = printed(idfr, "hints", "--draws", "1", "--first", "100", rows=("| overl",))
    assert ours[2].endswith("(0 %)")
    assert ours[3].endswith("(100 %)")
    assert float(ours[3].split()[0]) > float(ours[2].split()[0]) + 5
    assert probe[1:3] == ["probe", ""]
    (row,) = printed(idfr, "time", "--shapes", "600x300x6", rows=("| 600",))
    assert (row[3], row[6]) == ("dfr", "afr")


def test_an_honest_number_is_compared_with_the_chosen_one_on_halves(mine, printed):
    (row,) = printed(held_out_choice, mine, "--halvings", "2", "--folds", "2", "5", rows=("| mine",))
    assert len(row) == 4
    assert all(-100 < float(cell.partition(" ")[0]) < 100 for cell in row[1:])


def test_wild_columns_are_counted(tmp_path, mine, printed):
    for split in ("train", "val", "test"):
        given = dict(np.load(f"{mine}_{split}.npz"))
        column = np.zeros((len(given["y"]), 1), dtype=given["x"].dtype)
        column[:3] = 1.0 if split == "train" else 50.0
        np.savez(tmp_path / f"far_{split}.npz", **{**given, "x": np.hstack([given["x"], column])})
    first, second, *_ = printed(wild_columns, str(tmp_path / "far"))
    assert first.startswith(f"1 of {given['x'].shape[1] + 1} columns are wild")
    far, steadied = (int(number) for number in re.findall(r"(\d+) (?:spreads|as)", second))
    assert far > 5 * steadied


def test_idfr_is_measured_beside_dfr_on_files(mine, printed):
    rows = printed(idfr, "accuracy", mine, "--draws", "2", "--with-train", rows=("| mine",))
    assert [row[1] for row in rows] == ["0.5", "0.9", "0.95"]
    balanced, biased = rows[0], rows[1]
    assert balanced[-1] == "llr 2"
    assert biased[-1] == "dfr 2"
    llr, _, ours, true = map(float, biased[3:7])
    assert ours == pytest.approx(true, abs=3)
    assert ours > llr + 10


def test_methods_are_measured_under_bias_on_files(tmp_path, mine, printed):
    how = ("--methods", "llr", "idfr", "dfr", "--agreement", "0.5", "0.9", "--draws", "2", "--out", str(tmp_path))
    rows = printed(validation_bias, mine, *how, rows=("| ERM", "| LLR", "| IDFR", "| DFR"))
    assert [row[0] for row in rows] == ["ERM", "LLR", "IDFR", "DFR"]
    assert [("(" in row[2], row[1]) for row in rows] == [(True, ""), (True, "2"), (True, "2"), (False, "2")]
    assert (tmp_path / "mine.png").stat().st_size > 0
    assert len(pd.read_parquet(tmp_path / "mine.parquet")) == 4 * 2 * 2
    fixed, tuned = (validation_bias.chosen_rows(["hsfm"], 8, tuned)["hsfm"][1] for tuned in (False, True))
    assert fixed.tune is None
    assert tuned.tune is not None
