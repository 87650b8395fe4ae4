"""First answers of the page: the best method, group labels, provenance."""

from datetime import date

import pandas as pd

from hsfm.report.summary import Provenance, best_method, group_labels, provenance, summarize

MADE = Provenance(made=date(2026, 11, 26))
LABELS = {"erm": "none", "dfr": "training", "llr": "none", "dac": "selection", "hsfm": "selection"}


def measured(*, dataset: str = "birds", tied: tuple = (), **worst) -> pd.DataFrame:
    """A table as tables.aggregate and uncertainty.measure make it, of worst-group accuracies."""
    rows = []
    for method, value in worst.items():
        row = {"dataset": dataset, "method": method, "group_labels": LABELS[method], "runs": 1,
               "seeds": 1 if method == "erm" else 3, "average_percent": 95.0, "average_deviation": 0.1}  # fmt: skip
        for measure in ("worst_group", "worst_class"):
            row |= {f"{measure}_percent": value, f"{measure}_deviation": None if method == "erm" else 0.1}
            row[f"{measure}_best"] = method in tied
        rows.append({**row, "worst_group_to_erm_low": None, "worst_group_to_erm_high": None})
    return pd.DataFrame(rows)


def said(sentences: list[str]) -> str:
    return " ".join(sentences).replace("\N{NO-BREAK SPACE}", " ")


def test_the_best_method_is_named_with_its_lead_over_erm_and_the_best_other():
    table = measured(erm=65.8, llr=88.0, hsfm=92.4)
    text = said(best_method(table))
    assert text.startswith(
        "On birds HSFM has the highest worst-group accuracy, 92.4 ± 0.1 %: 26.6 points above ERM (65.8 %) and "
        "4.4 points above the best other, LLR (88.0 ± 0.1 %)."
    )
    assert "Average accuracy of HSFM: 95.0 %, of ERM 95.0 %." in text
    known = table.assign(worst_group_to_erm_low=22.3, worst_group_to_erm_high=30.6)
    assert "26.6 points above ERM (65.8 %; 95 % interval of the difference 22.3 to 30.6)" in said(best_method(known))


def test_statistical_ties_are_named():
    tied = said(best_method(measured(erm=65.8, dfr=90.0, hsfm=92.4, tied=("dfr", "hsfm"))))
    assert "DFR cannot be told apart from HSFM on these test images" in tied
    assert "All other methods are told apart from it" in said(best_method(measured(erm=65.8, dfr=90.0, hsfm=92.4)))


def test_equal_numbers_are_shared_and_labels_in_training_are_said():
    text = said(best_method(measured(erm=60.0, llr=92.38, hsfm=92.42)))
    assert text.startswith(
        "On birds HSFM and LLR share the highest worst-group accuracy, 92.4 %: 32.4 points above ERM"
    )
    text = said(best_method(measured(erm=60.0, dfr=95.0, llr=90.0)))
    assert "Among those that train without group labels LLR is best, 90.0 ± 0.1 %." in text


def test_erm_alone_and_erm_at_the_top():
    assert said(best_method(measured(erm=60.0))) == (
        "On birds ERM has the highest worst-group accuracy, 60.0 %. Average accuracy of ERM: 95.0 %."
    )
    text = said(best_method(measured(erm=95.0, dac=20.0)))
    assert "ERM has the highest worst-group accuracy, 95.0 %: 75.0 points above the best other, DaC" in text


def test_where_no_group_is_known_the_worst_class_is_compared():
    table = measured(erm=60.0, hsfm=70.0).assign(worst_group_percent=None, worst_group_deviation=None)
    assert "HSFM has the highest worst-class accuracy, 70.0 ± 0.1 %" in said(best_method(table))


def test_uses_of_group_labels():
    text = said(group_labels(measured(erm=60.0, dfr=90.0, llr=90.0, dac=20.0, hsfm=91.0)))
    assert "DFR trained on the group labels of validation images; DaC and HSFM used those of validation" in text
    assert "ERM and LLR used none." in text
    assert said(group_labels(measured(erm=60.0, llr=90.0))) == "No method used group labels."


def test_provenance_is_that_of_most_jobs():
    stages = pd.DataFrame({"seconds": [480.0, None, 11.0]})
    versions = pd.DataFrame(
        [("hsfm", "0.9", 1), ("hsfm", "1.0", 20), ("commit", "aaa", 1), ("commit", 20 * "b" + " + changes", 20)],
        columns=["part", "version", "jobs"],
    )
    found = provenance(MADE.made, stages, versions)
    assert found == Provenance(MADE.made, 491.0, "1.0", 20 * "b", dirty=True, mixed=True)
    text = said([sentence for _, answers in summarize(measured(erm=60.0), found) for sentence in answers])
    assert "All stages together took 8 min 11 s by the clock" in text
    assert "Made by hsfm 1.0, commit bbbbbbbbbbbb, with changes that were not committed; some results by other" in text
    assert "The newest result is of 26 November 2026." in text
    unknown = provenance(MADE.made, stages.iloc[1:2], versions.iloc[:0])
    assert unknown.sentence == MADE.sentence
    assert "there is no record of the jobs" in said(summarize(measured(erm=60.0), unknown)[3][1])
