import pandas as pd
import pytest

from hsfm.report import tables
from hsfm.report.comparison import compare, published_table, unlike_published
from hsfm.report.published import PUBLISHED, QUOTED
from tests.latex_structure import check_latex
from tests.report.test_tables import scores


@pytest.fixture
def compared() -> tuple[pd.DataFrame, pd.DataFrame]:
    """ERM and HSFM on a dataset of Waterbirds' images, and their comparison."""
    results = pd.concat(
        [
            scores("erm", "none", [0], test=[(10, 10, 15, 40)], dataset="mine"),
            scores("hsfm", "none", [0], test=[(10, 19, 28, 38)], dataset="mine"),
        ]
    )
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(
            "hsfm.report.comparison.beside_published", lambda _, n: pd.DataFrame({"expected": n, "found": n})
        )
        return compare(tables.aggregate(tables.summarize(results)), results, {"mine": "waterbirds"}), results


def test_by_hand(compared):
    found = compared[0].set_index("method")
    assert found.index.tolist() == ["erm", "dfr", "dac", "ddb", "hsfm"]
    assert found.loc["hsfm", "worst_group_difference"] == pytest.approx(100 * 28 / 30 - 93.1)
    assert found.loc["hsfm", "average_difference"] == pytest.approx(95.0 - 94.0)
    assert found.loc["erm", "worst_group_difference"] == pytest.approx(50.0 - 74.6)
    assert found["one_image"].tolist() == [1.0] * 5
    assert found.loc["dfr", ["worst_group_percent", "worst_group_difference"]].isna().all()


def test_for_readers(compared):
    table = published_table(*compared, {})
    by_method = {row[1].text: [cell.text for cell in row[2:]] for row in table.rows}
    assert by_method["HSFM"] == ["93.1 ± 0.1", "93.3", "+0.2", "94.0 ± 0.5", "95.0", "+1.0", "1.00"]
    assert by_method["DFR"] == ["92.3 ± 0.2", "-", "-", "93.3 ± 0.5", "-", "-", "1.00"]
    assert by_method["DDB"][0] == "93.0 ± 0.1 (quoted)"
    assert "above the published ERM is not what their method gained" in table.markdown()
    assert by_method["ERM"][0] == "74.6"
    assert table.made_from[-1] == ("results/mine/run0/hsfm/scores.parquet",)
    assert table.made_from[1:4] == ((), (), ())
    assert "arXiv 2603.29313" in table.markdown()
    check_latex(table.latex("tab:published"))


def test_quoted_rows_say_which_erm_they_are_of(compared):
    """DDB's paper has another ERM on CelebA and MetaShift; where nothing is quoted there is no note."""
    frame, results = compared
    of_celeba = frame.assign(images="celeba", quoted=[method in QUOTED["celeba"] for method in frame["method"]])
    assert "celeba: 42.2 there, 30.6 here" in published_table(of_celeba, results, {}).markdown()
    assert "quoted" not in published_table(frame.assign(quoted=False), results, {}).markdown()
    of_metashift = published_table(frame.assign(images="metashift", dataset="cats"), results, {}).markdown()
    assert of_metashift.count("cats: its published split depends on the order") == 1
    assert all(QUOTED[name] <= PUBLISHED[name].keys() - {"erm", "hsfm"} for name in QUOTED)


def test_other_images_are_not_set_beside_published_numbers(compared):
    """It says why instead, and other datasets keep their rows."""
    _, results = compared
    unlike = unlike_published(results, {"mine": "waterbirds"})
    assert unlike == {"mine": "test, a, x has 100 images, published 0, and 23 more groups"}
    frame = compare(tables.aggregate(tables.summarize(results)), results, {"mine": "waterbirds"})
    assert frame.empty
    table = published_table(frame, results, unlike)
    assert table.rows == ()
    assert "mine is not set beside them, since its images are not the published ones: test, a, x" in table.markdown()
    check_latex(table.latex("tab:published"))
    assert "mine is not set" in table.html("table-published")
