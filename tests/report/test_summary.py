"""First answers of the page: the head to take, group labels, provenance."""

from datetime import date

import pandas as pd

from hsfm.report.summary import Provenance, provenance, summarize

MADE = Provenance(made=date(2026, 11, 26))
LABELS = {"erm": "none", "dfr": "training", "llr": "none", "dac": "selection", "hsfm": "selection", "big": "both"}
MARKS = ("best", "best_of_block", "best_without_train")


def measured(
    *, dataset: str = "birds", tied: tuple = (), images: int = 500, held_out: dict | None = None, **worst
) -> pd.DataFrame:
    """A table as tables.aggregate and uncertainty.measure make it, of worst-group accuracies."""
    rows = []
    for method, value in worst.items():
        row = {"dataset": dataset, "method": method, "group_labels": LABELS[method], "runs": 1,
               "seeds": 1 if method == "erm" else 3, "average_percent": 95.0, "average_deviation": 0.1,
               "worst_group_images": images, "worst_class_images": 2 * images,
               "held_out_percent": (held_out or {}).get(method), "held_out_error": 2.0}  # fmt: skip
        for measure in ("worst_group", "worst_class"):
            row |= {f"{measure}_percent": value, f"{measure}_deviation": None if method == "erm" else 0.1}
            row |= {f"{measure}_low": value - 4, f"{measure}_high": value + 3}
            row |= {f"{measure}_{mark}": method in tied for mark in MARKS}
        rows.append(row)
    return pd.DataFrame(rows)


def answers(main: pd.DataFrame, question: str = "Which head to take") -> list[str]:
    found = dict(summarize(main, MADE))[question]
    assert isinstance(found, list)
    return [answer.replace("\N{NO-BREAK SPACE}", " ") for answer in found]


def test_one_head_with_group_labels_and_one_without_with_interval_and_ties():
    table = measured(erm=65.8, llr=88.0, dfr=91.0, dac=70.0, hsfm=92.4, tied=("dfr", "hsfm"))
    assert answers(table) == [
        "With group labels of validation take HSFM: worst-group accuracy 92.4 ± 0.1 % (95 % interval 88.4 to 95.4); "
        "DFR cannot be told apart from it.",
        "Without group labels take LLR: worst-group accuracy 88.0 ± 0.1 % (95 % interval 84.0 to 91.0); every other "
        "method can be told apart from it; ERM has 65.8 %.",
    ]


def test_several_datasets_have_a_block_each():
    birds, faces = measured(erm=65.8, hsfm=92.4), measured(dataset="faces", images=31, erm=60.0, hsfm=50.0)
    found = dict(summarize(pd.concat([birds, faces], ignore_index=True), MADE))["Which head to take"]
    assert list(found) == ["birds", "faces"]
    assert not any("31" in paragraph for paragraph in found["birds"])
    assert found["faces"][-1].startswith("The smallest test group has 31 images, fewer than 50: read the intervals")
    assert "take no head for the best by its number alone" in found["faces"][-1]


def test_each_choice_has_its_own_ties():
    table = measured(erm=65.8, llr=88.0, dfr=91.0, hsfm=92.4)
    table["worst_group_best_of_block"] = True
    assert "HSFM" in answers(table)[0]
    assert "(95 % interval 84.0 to 91.0); no other method can be told apart from it" in answers(table)[1]


def test_a_head_that_needs_labels_of_train_is_no_choice_for_who_has_those_of_validation():
    table = measured(erm=65.8, llr=88.0, hsfm=90.0, big=99.0)
    assert "big" not in " ".join(answers(table))
    assert "take HSFM" in answers(table)[0]
    first, second = answers(measured(erm=65.8, big=99.0))
    assert first.startswith("With group labels of training images, too, take big: worst-group accuracy 99.0")
    assert second.startswith("Without group labels take ERM")


def test_a_head_that_is_best_either_way_is_said_once():
    text = answers(measured(erm=60.0, llr=95.0, hsfm=90.0, tied=("llr", "hsfm")))[0]
    assert text == (
        "With group labels of validation or without take LLR: worst-group accuracy 95.0 ± 0.1 % "
        "(95 % interval 91.0 to 98.0); HSFM cannot be told apart from it; ERM has 60.0 %."
    )


def test_validation_alone_may_speak_against_hsfm():
    """Of methods that need no more group labels, where it is better by more than HSFM's standard error."""
    worst = {"erm": 60.0, "llr": 90.0, "dfr": 91.0, "hsfm": 95.0}
    line = (
        "By validation alone, on images that did not teach, LLR has 86.0 % in the worst group and HSFM 83.9 ± 2.0 %: "
        "take LLR rather than HSFM."
    )
    assert answers(measured(**worst, held_out={"llr": 86.0, "hsfm": 83.9, "dfr": 99.0}))[-1] == line
    for held_out in ({"llr": 85.9, "hsfm": 83.9, "dfr": 99.0}, {"llr": 86.0}, {"hsfm": 80.0}, None):
        assert not any("validation alone" in line for line in answers(measured(**worst, held_out=held_out)))


def test_erm_alone():
    assert answers(measured(erm=60.0)) == [
        "Without group labels take ERM: worst-group accuracy 60.0 % (95 % interval 56.0 to 63.0)."
    ]


def test_where_no_group_is_known_the_worst_class_is_compared():
    table = measured(erm=60.0, llr=70.0).assign(worst_group_percent=None, worst_group_deviation=None)
    assert "take LLR: worst-class accuracy 70.0 ± 0.1 %" in answers(table)[0]


def test_uses_of_group_labels():
    text = " ".join(answers(measured(erm=60.0, dfr=90.0, llr=90.0, dac=20.0, hsfm=91.0), "Group labels"))
    assert "DFR trained on the group labels of validation images; DaC and HSFM used those of validation" in text
    assert "ERM and LLR used none. No method saw those of training images." in text
    text = " ".join(answers(measured(erm=60.0, big=90.0), "Group labels"))
    assert "big trained on the group labels of training and validation images" in text
    assert "No method saw" not in text
    assert answers(measured(erm=60.0, llr=90.0), "Group labels") == ["No method used group labels."]


def test_provenance_is_that_of_most_jobs():
    stages = pd.DataFrame({"seconds": [480.0, None, 11.0]})
    versions = pd.DataFrame(
        [("hsfm", "0.9", 1), ("hsfm", "1.0", 20), ("commit", "aaa", 1), ("commit", 20 * "b" + " + changes", 20)],
        columns=["part", "version", "jobs"],
    )
    found = provenance(MADE.made, stages, versions)
    assert found == Provenance(MADE.made, 491.0, "1.0", 20 * "b", dirty=True, mixed=True)
    text = " ".join(sentence for _, answer in summarize(measured(erm=60.0), found) for sentence in answer)
    assert "All stages together took 8 min 11 s by the clock" in text
    assert "Made by hsfm 1.0, commit bbbbbbbbbbbb, with changes that were not committed; some results by other" in text
    assert "The newest result is of 26 November 2026." in text
    unknown = provenance(MADE.made, stages.iloc[1:2], versions.iloc[:0])
    assert unknown.sentence == MADE.sentence
    assert "there is no record of the jobs" in summarize(measured(erm=60.0), unknown)[3][1][0]
