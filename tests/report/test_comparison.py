import pandas as pd
import pytest

from hsfm.evaluation.scores import score
from hsfm.report import tables
from hsfm.report.comparison import compare, published_table
from hsfm.report.published import PUBLISHED
from tests.latex_structure import check_latex


@pytest.fixture
def scores() -> pd.DataFrame:
    """ERM and HSFM on a dataset of Waterbirds' images: 4 groups of 200, 200, 50 and 50 test images."""
    sizes = (200, 200, 50, 50)
    y = [g // 2 for g, n in enumerate(sizes) for _ in range(n)]
    attribute = [g % 2 for g, n in enumerate(sizes) for _ in range(n)]
    frames = []
    for method, wrong in (("erm", 20), ("hsfm", 3)):
        parts = []
        for split in ("train", "val", "test"):
            table = pd.DataFrame({"y": y, "attribute": attribute})
            predicted = table["y"].to_numpy().copy()
            if split == "test":
                predicted[400 : 400 + wrong] = 0  # of the third group
            parts.append(
                score(
                    predicted[None], table["y"].to_numpy(), table["attribute"].to_numpy(), seeds=[0],
                    class_names=["a", "b"], attribute_names=["x", "y"],
                ).assign(split=split)
            )  # fmt: skip
        frames.append(
            pd.concat(parts).assign(
                dataset="mine",
                run=0,
                method=method,
                group_labels="none",
                chosen_by="",
                remark="",
                file=f"{method}.parquet",
            )
        )
    return pd.concat(frames, ignore_index=True)


def test_by_hand(scores):
    found = compare(tables.aggregate(tables.summarize(scores)), scores, {"mine": "waterbirds"}).set_index("method")
    assert found.index.tolist() == ["erm", "dfr", "dac", "ddb", "hsfm"]
    assert found.loc["hsfm", "worst_group_difference"] == pytest.approx(94.0 - 93.1)
    assert found.loc["hsfm", "average_difference"] == pytest.approx(100 * 497 / 500 - 94.0)
    assert found.loc["erm", "worst_group_difference"] == pytest.approx(60.0 - 74.6)
    assert found["one_image_worst_group"].tolist() == [2.0] * 5
    assert found["one_image_average"].tolist() == [0.2] * 5
    assert found.loc["dfr", ["worst_group_percent", "worst_group_difference"]].isna().all()


def test_for_readers(scores):
    table = published_table(compare(tables.aggregate(tables.summarize(scores)), scores, {"mine": "waterbirds"}), scores)
    by_method = {row[1].text: [cell.text for cell in row[2:]] for row in table.rows}
    assert by_method["HSFM"] == ["93.1 ± 0.1", "94.0", "+0.9", "94.0 ± 0.5", "99.4", "+5.4", "2.00"]
    assert by_method["DFR"] == ["92.3 ± 0.2", "-", "-", "93.3 ± 0.5", "-", "-", "2.00"]
    assert by_method["ERM"][0] == "74.6"
    assert table.made_from == (("erm.parquet",), (), (), (), ("hsfm.parquet",))
    assert "arXiv 2603.29313" in table.markdown()
    check_latex(table.latex("tab:published"))


def test_published_numbers_make_sense():
    """No average below its worst group, and the rows that the paper has."""
    for source, methods in PUBLISHED.items():
        assert list(methods) == [m for m in ("erm", "dfr", "dac", "ddb", "hsfm") if (source, m) != ("dominoes", "ddb")]
        for worst, worst_deviation, average, average_deviation in methods.values():
            assert 0 < worst <= average < 100
            assert (worst_deviation is None) == (average_deviation is None)
