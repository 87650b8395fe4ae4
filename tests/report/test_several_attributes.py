"""Tables and intervals of several attributes against plain counting on the rows."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

import hsfm
from hsfm.evaluation.predictions import predict
from hsfm.evaluation.scores import read_scores, score_heads, value_scores, write_scores
from hsfm.features.embeddings import read_embeddings, write_embeddings
from hsfm.heads.head import Head, SavedHeads
from hsfm.report.accuracy_tables import accuracy_tables

NONE = pd.DataFrame(columns=["dataset", "method", "reason"])


def with_sizes(part):
    """A second attribute, big for every fifth row, with the first as four cells."""
    big = (torch.arange(len(part.y)) % 5 == 0).long()
    values = {"place": ("left", "left", "right", "right"), "size": ("small", "big") * 2}
    names = tuple(f"place {place}, size {size}" for place, size in zip(*values.values(), strict=True))
    return replace(part, attribute=2 * part.attribute + big, attribute_names=names, cells=values)


@pytest.fixture
def saved(splits):
    generator = torch.Generator().manual_seed(0)
    head = Head(torch.randn(2, 2, 12, generator=generator), torch.zeros(2, 2))
    return SavedHeads(head, "erm", (0, 1), splits["test"].class_names, "a" * 64, "none", "nothing")


@pytest.mark.parametrize("min_group", [1, 31])
def test_cells_and_values_are_counted_and_drawn(splits, saved, tmp_path, min_group):
    parts = [replace(with_sizes(part), min_group=min_group) for part in splits.values()]
    test = parts[-1]
    write_embeddings(tmp_path / "test.parquet", test)
    again = read_embeddings(tmp_path / "test.parquet")
    assert (again.cells, again.min_group) == (test.cells, min_group)
    scores = score_heads(saved, parts, run=0)
    write_scores(tmp_path / "scores.parquet", scores, {})
    scores = read_scores(tmp_path / "scores.parquet").assign(file="scores.parquet")
    made = accuracy_tables(scores, [predict(saved, test, 0)], NONE, {})
    (row,) = made["main"][0].to_dict("records")

    correct = (saved.head.predict(test.features) == test.y).numpy()
    rows = pd.DataFrame({"y": test.y, "place": test.attribute // 2, "size": test.attribute % 2})
    worst = {"worst_group": [], "worst_value": []}
    for of_head in correct:
        frame = rows.assign(correct=of_head)
        cells = frame.groupby(["y", "place", "size"])["correct"].agg(["mean", "size"])
        worst["worst_group"].append(cells.loc[cells["size"] >= min_group, "mean"].min())
        worst["worst_value"].append(min(frame.groupby(["y", of])["correct"].mean().min() for of in ("place", "size")))
    assert (cells["size"] < 31).any(), "a cell is small"
    for metric, values in worst.items():
        assert row[f"{metric}_percent"] == pytest.approx(100 * np.mean(values))
        assert row[f"{metric}_low"] < row[f"{metric}_percent"] < row[f"{metric}_high"]
    assert "planted: worst value" in made["main"][1].header
    groups = made["groups"][0].set_index("group_name")["erm_percent"]
    own = rows.assign(correct=correct.mean(0)).query("y == 1 and size == 1")["correct"]
    assert groups["class 1, size big"] == pytest.approx(100 * own.mean())
    said = any("groups of fewer than 31 test images do not count" in note for note in made["main"][1].notes)
    assert said == (min_group > 1)


def test_one_attribute_has_neither_columns_nor_rows_of_values(splits, saved, tmp_path):
    scores = score_heads(saved, list(splits.values()), run=0)
    assert "values" not in scores
    assert value_scores(scores).empty
    write_scores(tmp_path / "scores.parquet", scores, {})
    assert "values" not in read_scores(tmp_path / "scores.parquet")


def test_from_python_a_frame_and_two_dimensions_are_several_attributes(splits):
    def arrays(part, several):
        cells = with_sizes(part)
        frame = pd.DataFrame({"place": cells.attribute // 2, "size": cells.attribute % 2})
        return {"x": part.features.numpy(), "y": part.y.numpy(), "attribute": several(frame)}

    how = {"methods": ["erm", "class_scaling"], "seeds": [0], "select_by": "worst_value", "min_group": 10}
    found = [
        hsfm.compare(*(arrays(part, several) for part in splits.values()), **how)
        for several in (lambda frame: frame, lambda frame: frame.to_numpy())
    ]
    assert found[0]["worst_value_percent"].notna().all()
    assert found[0]["group_labels"].tolist() == ["none", "selection"]
    pd.testing.assert_frame_equal(*found)
