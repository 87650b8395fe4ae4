import pandas as pd

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


def test_of_several_trials_that_of_the_kept_head(tmp_path):
    def tried(kept: int) -> pd.DataFrame:
        rows = [(trial, epoch) for epoch in (1, 2) for trial in (0, 1, 2)]
        frame = pd.DataFrame(rows, columns=["trial", "epoch"]).assign(seed=7)
        chosen = (frame["trial"] == kept) & (frame["epoch"] == 2)
        return frame.assign(val_worst_group=0.1 * frame["trial"], val_worst_class=0.5, kept=chosen)

    found = read_training("afr", [written(tmp_path, run, tried(kept)) for run, kept in ((0, 1), (1, 2))])
    assert found[["run", "seed", "epoch", "val_worst_group"]].to_numpy().tolist() == [
        [0, 7, 1, 0.1], [0, 7, 2, 0.1], [1, 7, 1, 0.2], [1, 7, 2, 0.2]
    ]  # fmt: skip
    assert found["kept"].tolist() == [False, True, False, True]


def test_hard_groups_have_the_names_of_validation(tmp_path):
    counts = pd.DataFrame({"seed": 0, "epoch": 1, "y": [0, 1], "attribute": pd.array([1, None], "Int32"), "n": [5, 7]})
    groups = pd.DataFrame({"y": [0, 1], "attribute": [1, -1], "group_name": ["a, y", "b, unknown"], "n": [50, 70]})
    found = read_hard_groups([written(tmp_path, 0, counts)], groups)
    assert found.set_index("group_name")["n"].to_dict() == {"a, y": 5, "b, unknown": 7}
