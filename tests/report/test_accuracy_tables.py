from dataclasses import replace

import pandas as pd

from hsfm.report.accuracy_tables import accuracy_tables
from tests.report.test_uncertainty import method, together

NONE_LEFT_OUT = pd.DataFrame(columns=["dataset", "method", "reason"])


def both():
    predictions, scores = together(
        method("erm", "none", [(1.0, 0.9, 0.5, 1.0)], dataset="birds"),
        method("hsfm", "selection", [(0.9, 0.9, 0.9, 0.9), (0.9, 0.9, 0.85, 0.9)], seeds=(0, 1), dataset="birds"),
    )
    return scores.assign(file=scores["file"].str.replace("predictions", "scores")), predictions


def test_all_tables_of_the_same_numbers():
    scores, predictions = both()
    made = accuracy_tables(scores, predictions, NONE_LEFT_OUT, {})
    assert list(made) == ["main", "metrics", "groups", "uncertainty"]
    (main, text), (differences, uncertain) = made["main"], made["uncertainty"]
    assert main.set_index("method")["worst_group_percent"].round(1).to_dict() == {"erm": 50.0, "hsfm": 87.5}
    assert [name for name in differences if name not in main] == [name for name in differences if "_to_" in name]
    pd.testing.assert_frame_equal(main, differences[main.columns])
    assert text.made_from[1] == ("results/birds/run0/hsfm/scores.parquet",)
    assert uncertain.made_from[1] == ("results/birds/run0/hsfm/predictions.parquet",)


def test_published_numbers_are_compared_where_there_are_some(monkeypatch):
    scores, predictions = both()
    same = pd.DataFrame({"expected": [1], "found": [1]})
    monkeypatch.setattr("hsfm.report.comparison.beside_published", lambda *_: same)
    frame, text = accuracy_tables(scores, predictions, NONE_LEFT_OUT, {"birds": "waterbirds"})["published"]
    assert {"erm", "hsfm"} <= set(frame["method"])
    assert len(frame) == len(text.rows)


def test_a_row_that_is_left_out_is_said_with_its_reason():
    scores, predictions = both()
    left_out = pd.DataFrame([{"dataset": "birds", "method": "dfr", "reason": "it lacks groups"}])
    empty = replace(predictions[0], method="dfr", seeds=(), predicted=predictions[0].predicted[:, :0])
    with_it = accuracy_tables(scores, [*predictions, empty], left_out, {})
    frame, text = with_it["main"]
    assert "birds, DFR: left out. it lacks groups." in text.notes
    assert "<p>birds, DFR: left out. it lacks groups.</p>" in text.html("table-main"), "on the page, too"
    pd.testing.assert_frame_equal(frame, accuracy_tables(scores, predictions, NONE_LEFT_OUT, {})["main"][0])
