import pandas as pd
import pytest

from hsfm.core.files import write_frame
from hsfm.report.histories import read_hard_groups, read_histories, read_training


def written(folder, run: int, frame: pd.DataFrame) -> str:
    path = folder / "results" / "birds" / f"run{run}" / "hsfm" / "history.parquet"
    write_frame(path, frame)
    return str(path)


def test_runs_are_in_the_paths(tmp_path):
    paths = [written(tmp_path, run, pd.DataFrame({"epoch": [1, 2], "loss": float(run)})) for run in (3, 12)]
    found = read_histories(paths, ["epoch", "loss"])
    assert found["run"].tolist() == [3, 3, 12, 12]
    assert found["loss"].tolist() == [3, 3, 12, 12]
    assert list(found) == ["epoch", "loss", "run"]


def test_of_afrs_pairs_that_of_the_kept_head(tmp_path):
    def tried(kept_gamma: int) -> pd.DataFrame:
        rows = [(g, p, step) for g in (4, 20) for p in (0.0, 0.3) for step in (1, 2)]
        frame = pd.DataFrame(rows, columns=["gamma", "penalty", "step"])
        kept = (frame["gamma"] == kept_gamma) & (frame["penalty"] == 0.3) & (frame["step"] == 2)
        return frame.assign(val_worst_group=0.5, val_worst_class=0.5, kept=kept)

    found = read_training("afr", [written(tmp_path, run, tried(gamma)) for run, gamma in ((0, 4), (1, 20))])
    assert found[["run", "seed", "gamma", "penalty", "step"]].to_numpy().tolist() == [
        [0, 0, 4, 0.3, 1], [0, 0, 4, 0.3, 2], [1, 0, 20, 0.3, 1], [1, 0, 20, 0.3, 2]
    ]  # fmt: skip
    assert found["kept"].tolist() == [False, True, False, True]


def test_a_history_without_a_column_is_refused(tmp_path):
    with pytest.raises(ValueError, match="val_worst_group"):
        read_training("hsfm", [written(tmp_path, 0, pd.DataFrame({"seed": [0], "epoch": [1]}))])


def test_hard_groups_have_the_names_of_validation(tmp_path):
    counts = pd.DataFrame({"seed": 0, "epoch": 1, "y": [0, 1], "attribute": pd.array([1, None], "Int32"), "n": [5, 7]})
    groups = pd.DataFrame({"y": [0, 1], "attribute": [1, -1], "group_name": ["a, y", "b, unknown"], "n": [50, 70]})
    found = read_hard_groups([written(tmp_path, 0, counts)], groups)
    assert found.set_index("group_name")["n"].to_dict() == {"a, y": 5, "b, unknown": 7}
