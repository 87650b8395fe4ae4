"""A method that is dropped into hsfm/methods/, and a variant of another: each has a row, with nothing else touched."""

import pandas as pd
import pytest

from tests.repository import MINIMAL, copy_repository, planned_by, run_python, snakemake

NCM = '''"""NCM, nearest class mean: the class whose mean over validation features is nearest."""

import torch

from hsfm.heads.fit import Fit
from hsfm.heads.head import Head
from hsfm.heads.method_settings import MethodSettings

LABEL = "Nearest mean"
SOURCE = "Rocchio, 1971"


class Settings(MethodSettings):
    pass


def fit(train, val, erm, *, settings, seeds, scorer):
    """-|x - m|^2 = 2 m.x - |m|^2 - |x|^2, whose last term is the same for all classes."""
    means = torch.stack([val.features[val.y == label].mean(0) for label in range(val.n_classes)])
    return Fit(Head(2 * means[None], -means.square().sum(1)[None]), tuple(seeds[:1]), summary="means taken")
'''
WANTING = """
from hsfm.heads.fit import NotApplicable
from hsfm.heads.method_settings import MethodSettings

LABEL = "Wanting"
TABLES = ("history",)


class Settings(MethodSettings):
    pass


def fit(train, val, erm, *, settings, seeds, scorer):
    raise NotApplicable("Wanting needs rain")
"""
LOOKS = """
from hsfm.evaluation.scores import read_all_scores
from hsfm.report.figures import draw_groups
scores = read_all_scores([f"results/minibirds/run0/{row}/scores.parquet" for row in ("erm", "ncm", "two_fits")])
(legend,) = draw_groups(scores, "toy").legends
for text, line in zip(legend.get_texts(), legend.legend_handles, strict=True):
    print(text.get_text(), line.get_color(), line.get_marker(), sep=";")
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = copy_repository(tmp_path_factory.mktemp("new") / "hsfm")
    (folder / "hsfm/methods/ncm.py").write_text(NCM)
    (folder / "hsfm/methods/wanting.py").write_text(WANTING)
    variant = "{two_fits: {method: dfr, fits: 5}}"
    (folder / "rows.yaml").write_text(f"methods: [erm, ncm, wanting, {variant}]\n")
    arguments = [*MINIMAL, "rows.yaml", "--keep-incomplete"]
    assert {"fit_ncm", "fit_two_fits"} <= planned_by(folder, *arguments).keys()
    snakemake(folder, *arguments)
    return folder


def test_its_row_stands_in_every_table(run):
    for table in ("main", "metrics", "groups", "uncertainty", "costs", "stages"):
        text = (run / f"results/tables/{table}.md").read_text()
        assert "Nearest mean" in text, table
        assert "two_fits" in text, table
    costs = pd.read_csv(run / "results/tables/costs.csv").set_index("method")
    assert (costs.loc[["ncm", "two_fits"], "seconds"] > costs.loc["erm", "seconds"]).all()
    main = pd.read_csv(run / "results/tables/main.csv").set_index("method")
    assert main.loc["ncm", "group_labels"] == "none"
    assert main.loc["two_fits", "group_labels"] == "training"


def test_a_method_that_the_data_lack_something_for_is_left_out(run):
    text = (run / "results/tables/main.md").read_text()
    assert "minibirds, Wanting: left out. Wanting needs rain." in text
    assert "| Wanting" not in text
    assert "Wanting needs rain" in (run / "results/report.html").read_text()


def test_its_name_and_color_stand_in_figures_and_page(run):
    page = (run / "results/report.html").read_text()
    assert "Nearest mean" in page
    assert "two_fits" in page
    looks = [line.split(";") for line in run_python(LOOKS, run).splitlines()]
    assert [name for name, _, _ in looks] == ["ERM", "Nearest mean", "two_fits"]
    assert len({color for _, color, _ in looks}) == len({marker for _, _, marker in looks}) == 3


def test_the_variant_has_its_own_setting(run):
    heads = "read_heads('results/minibirds/run0/two_fits/heads.safetensors')"
    assert run_python(f"from hsfm import read_heads\nprint({heads}.settings['fits'])", run).strip() == "5"


def test_a_name_alone_on_the_command_line_will_do(run):
    planned = planned_by(run, *MINIMAL, "--config", "methods=[erm, ncm]")
    assert not {"fit_two_fits", "fit_ncm"} & planned.keys(), "it is there already"


def test_a_file_that_is_no_method_is_named(run):
    wrong = run / "hsfm/methods/wrong.py"
    wrong.write_text('SOURCE = "Wrong"\n')
    try:
        done = snakemake(run, "--dry-run", *MINIMAL, check=False)
    finally:
        wrong.unlink()
    assert done.returncode != 0
    assert "hsfm/methods/wrong.py: a method needs a LABEL, besides Settings and fit" in done.stdout
    assert "File " not in done.stdout, "one line, no traceback"
