"""`hsfm compare` and `hsfm.compare` on small features; tests/workflow holds that the numbers are the workflow's."""

import resource
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import yaml

import hsfm
from hsfm.deploy import cli
from hsfm.deploy.cli import DEFAULTS, main
from hsfm.deploy.compare import METHODS, make_plan
from hsfm.evaluation.measures import MEASURES
from hsfm.evaluation.predictions import read_predictions
from hsfm.heads.head import read_heads
from hsfm.heads.scorer import RULES
from tests.methods.small import SMALL

FAST = {name: SMALL[name] for name in ("llr", "dfr", "afr", "hsfm")} | {"hard_set": {"hard_per_class": 30}}
DFR_TRAIN = {"dfr_train": {"method": "dfr", "on": "train"}}


def arrays(part):
    return {"x": part.features.numpy(), "y": part.y.numpy(), "attribute": part.attribute.numpy()}


@pytest.fixture(scope="module")
def folder(splits, tmp_path_factory):
    """Features as three npz files, as one npz, one csv and one Parquet table; and settings that take a moment."""
    folder = tmp_path_factory.mktemp("features")
    for split, part in splits.items():
        np.savez(folder / f"{split}.npz", **arrays(part))
    whole = {name: np.concatenate([arrays(part)[name] for part in splits.values()]) for name in ("x", "y", "attribute")}
    split = np.repeat(["train", "valid", "test"], [len(part.y) for part in splits.values()])
    np.savez(folder / "all.npz", **whole, split=split)
    labels = pd.DataFrame({"target": whole["y"], "place": whole["attribute"], "split": split})
    columns = pd.DataFrame(whole["x"], columns=[f"x{i}" for i in range(whole["x"].shape[1])])
    pd.concat([labels, columns], axis=1).sample(frac=1, random_state=0).sort_index().to_csv(folder / "all.csv")
    labels.assign(feature=list(whole["x"])).to_parquet(folder / "lists.parquet")
    (folder / "fast.yaml").write_text(yaml.safe_dump({"settings": yaml.safe_load(yaml.safe_dump(_plain(FAST)))}))
    return folder


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(of) for key, of in value.items()}
    return list(value) if isinstance(value, tuple) else value


@pytest.fixture
def run(folder, monkeypatch, capsys):
    """Call `hsfm compare` in the folder; its exit status, stdout and stderr."""
    monkeypatch.chdir(folder)

    def run(*arguments):
        status = main(["compare", *map(str, arguments), "--settings", "fast.yaml", "--jobs", "1"])
        return status, *capsys.readouterr()

    return run


FILES = ("train.npz", "val.npz", "test.npz")
QUICK = ("--methods", "erm", "llr", "dfr", "--seeds", 2)


def test_the_table_has_blocks_ties_and_intervals(run, folder):
    out = folder / "out"
    status, printed, said = run(*FILES, *QUICK[:4], "{dfr_train: {method: dfr, on: train}}", *QUICK[4:], "--out", out)
    lines = printed.splitlines()
    assert status == 0
    assert [line.split()[0] for line in lines[1:8] if line] == ["Method", "ERM", "LLR", "DFR", "dfr_train"]
    assert lines[4] == "", "between blocks"
    main_csv = pd.read_csv(out / "tables/main.csv").set_index("method")
    llr = main_csv.loc["llr"]
    shown = f"{llr['worst_group_percent']:.1f} ± {llr['worst_group_deviation']:.1f}*"
    assert shown in lines[3]
    assert f"{llr['worst_group_low']:.1f} to {llr['worst_group_high']:.1f}" in lines[3]
    assert main_csv["group_labels"].to_dict() == {"erm": "none", "llr": "none", "dfr": "training", "dfr_train": "train"}
    assert "ERM: test worst group" in said
    assert (
        f"| DFR | val, to train | **<u>{main_csv.loc['dfr', 'worst_group_percent']:.1f}"
        in (out / "tables/main.md").read_text()
    )
    page = (out / "report.html").read_text()
    assert "hsfm compare train.npz val.npz test.npz --settings" in page
    assert 'data-command=""' in page, "no command for a row"
    assert read_heads(out / "heads/dfr_train.safetensors").seeds == (0, 1)
    predictions = read_predictions(out / "predictions/llr.parquet")
    worst = min(predictions.correct[predictions.group == group].mean(0)[0] for group in range(4))
    scores = predictions.correct[:, 0]
    assert worst <= scores.mean()
    # the written settings give the same again
    assert main(["compare", *FILES, "--settings", str(out / "settings.yaml"), "--jobs", "1", "--out", "again"]) == 0
    for name in ("main", "uncertainty"):
        again = (folder / f"again/tables/{name}.csv").read_bytes()
        assert again == (out / f"tables/{name}.csv").read_bytes()


def test_validation_alone_speaks_against_an_hsfm_that_does_not_learn(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    grid = {"inner_lr": [1e-6], "outer_lr": [0.3], "hard_share": [1.0], "support_per_class": [16], "epochs": 3}
    settings = {"hsfm": {"tune": grid}, "llr": {"grid": [0.1]}}
    (folder / "tuned.yaml").write_text(yaml.safe_dump({"settings": settings}))
    methods = ("--methods", "erm", "llr", "hsfm", "--seeds", "2", "--jobs", "1", "--out", "told")
    assert main(["compare", *FILES, *methods, "--settings", "tuned.yaml"]) == 0
    line = "By validation alone, on images that did not teach, LLR has"
    page = (folder / "told/report.html").read_text()
    assert line in capsys.readouterr().out
    assert line in page
    numbers = pd.read_csv(folder / "told/tables/uncertainty.csv").set_index("method")
    assert numbers["held_out_percent"].isna().to_dict() == {"erm": True, "llr": False, "hsfm": False}


def test_one_method_that_fails_leaves_the_others(run, monkeypatch):
    def fail(*args, **settings):
        raise RuntimeError("no memory left")

    monkeypatch.setattr("hsfm.methods.dfr.fit", fail)
    status, printed, said = run(*FILES, "--methods", "erm", "dfr", "llr", "selective")
    assert status == 1
    lines = printed.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["Method", "ERM", "LLR"]
    assert "DFR: left out. RuntimeError: no memory left." in printed
    assert "ERROR: dfr: RuntimeError: no memory left\nTraceback" in said
    assert "ERROR: selective: SELF needs" in said


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("all.npz", ()),
        ("all.csv", ("--columns", "y=target", "attribute=place")),
        ("lists.parquet", ("--columns", "y=target", "attribute=place")),
    ],
)
def test_one_table_is_three_files(run, splits, table, columns):
    _, three, _ = run(*FILES, *QUICK, "--name", "mine")
    status, one, _ = run(table, *QUICK, *columns, "--name", "mine")
    assert status == 0
    assert one == three


def test_from_python_arrays_embeddings_and_processes_give_the_same(splits):
    how = {"methods": ["erm", "dfr", "llr", DFR_TRAIN], "seeds": [0, 1], "settings": FAST}
    frame = hsfm.compare(*map(arrays, splits.values()), **how)
    assert list(frame["method"]) == ["erm", "llr", "dfr", "dfr_train"]
    assert frame.attrs["failed"] == {}
    pd.testing.assert_frame_equal(hsfm.compare(*splits.values(), **how, name="embeddings", jobs=2), frame)


def test_without_attributes_the_worst_class_chooses_and_what_needs_groups_is_left_out(splits, caplog):
    bare = [{name: values for name, values in arrays(part).items() if name != "attribute"} for part in splits.values()]
    frame = hsfm.compare(*bare, methods=["erm", "llr", "dfr"], settings=FAST, seeds=[0])
    assert list(frame["method"]) == ["erm", "llr"]
    assert frame["worst_group_percent"].isna().all()
    assert set(frame.attrs["failed"]) == {"dfr"}
    assert "DFR has no row: " in caplog.text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train.npz", "val.npz"), "2 files; expected three"),
        (("none.csv",), "none.csv: no such file"),
        (("all.csv",), "all.csv: no column 'y'; the columns are Unnamed: 0, target"),
        (("all.csv", "--columns", "y=target", "split=place"), "column 'place' has no row of test"),
        (("all.csv", "--columns", "label=target"), "columns: unknown 'label'; allowed are y, split"),
        ((*FILES, "--methods", "dac"), "methods: dac is trained on images"),
        ((*FILES, "--methods", "lrr"), "methods: unknown 'lrr'; allowed are erm, afr"),
        ((*FILES, "--methods", "{a: {method: afr, on: train}}"), "afr: on: train needs a network of its own"),
        ((*FILES, "--methods", "{a: {method: dfr, fit: 3}}"), "dfr: unknown key 'fit'; did you mean 'fits'?"),
        ((*FILES, "--min-group", "61"), "min_group: is 61, but the largest group of validation has 60 rows"),
        ((*FILES, "--min-group", "0"), "min_group: 0; expected a whole number of rows from 1"),
        ((*FILES, "--seeds", "0"), "seeds: []; expected different whole numbers"),
    ],
)
def test_bad_input_is_one_line(run, arguments, message):
    status, printed, said = run(*arguments)
    assert (status, printed) == (1, "")
    assert said.startswith("ERROR: ")
    assert message in said
    assert len(said.splitlines()) == 1


def test_texts_among_features_are_named(run, folder):
    table = pd.read_csv(folder / "all.csv", index_col=0)
    table.assign(color="red").to_csv(folder / "texts.csv", index=False)
    status, _, said = run("texts.csv", "--columns", "y=target", "attribute=place")
    assert status == 1
    assert "column 'color' holds 'red'" in said


def test_one_attribute_that_is_unknown_refuses_the_worst_group(splits):
    val = splits["val"]
    hidden = replace(val, attribute=val.attribute.clone().index_fill_(0, val.y.new_tensor([3]), -1))
    with pytest.raises(ValueError, match="select_by: worst_group needs the attribute of every val image; 1 of 240"):
        hsfm.compare(splits["train"], hidden, splits["test"], select_by="worst_group")


def test_tune_is_fixed_where_hsfm_is(splits):
    """By a setting that Tune has not; what both give to the grid is merged."""
    fixed, half = (
        make_plan(splits["val"], methods=["tune"], settings=settings).rows["tune"][1]
        for settings in (
            {"hsfm": {"support_per_class": 4}},
            {"hsfm": {"tune": {"epochs": 7}}, "tune": {"tune": {"repeats": 1}}},
        )
    )
    assert fixed.tune is None
    assert (half.tune.epochs, half.tune.repeats) == (7, 1)


def test_the_command_line_names_the_defaults():
    assert DEFAULTS.split() == list(METHODS)
    assert (cli.MEASURES, cli.RULES) == (MEASURES, RULES)


def test_more_than_accuracy_has_a_table(run, folder):
    out = folder / "more"
    status, printed, _ = run(*FILES, *QUICK, "--measures", "balanced_accuracy", "auroc", "--out", out)
    assert status == 0
    frame = pd.read_csv(out / "tables/measures.csv").set_index("method")
    groups = pd.read_csv(out / "tables/groups.csv")["llr_percent"]
    assert frame.loc["llr", "balanced_accuracy_percent"] == pytest.approx(groups.mean(), abs=1e-3), "of equal groups"
    assert f"{frame.loc['dfr', 'auroc_low']:.1f} to" in printed
    assert "More than accuracy" in (out / "report.html").read_text()


@pytest.mark.parametrize("program", ["import hsfm", "from hsfm.deploy.cli import main; main(['compare', '--help'])"])
def test_help_and_import_take_a_moment(program):
    """Under half a second of processor, as no torch is loaded."""

    def used():
        return sum(resource.getrusage(resource.RUSAGE_CHILDREN)[:2])

    before = used()
    checked = (
        f"import atexit, sys; atexit.register(lambda: print(sys.modules.keys() & {{'torch', 'pandas'}})); {program}"
    )
    done = subprocess.run([sys.executable, "-c", checked], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
    assert used() - before < 0.5
