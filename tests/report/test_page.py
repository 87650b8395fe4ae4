"""hsfm/report/page.py: what the page says of the numbers, and that nothing in it can break it."""

from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from hsfm.core.text_tables import Cell, TextTable
from hsfm.report import contents
from hsfm.report.page import (
    Picture,
    Provenance,
    Table,
    best_method,
    caption_html,
    group_labels,
    provenance,
    repetitions,
    write_page,
)

ROOT = Path(__file__).parents[2]
MADE = Provenance(made=date(2026, 11, 26))
LABELS = {"erm": "none", "dfr": "training", "llr": "none", "dac": "selection", "hsfm": "selection"}


def main_table(*, dataset: str = "birds", runs: int = 1, seeds: int = 3, spread: float = 0.1, **worst) -> pd.DataFrame:
    """A table as tables.aggregate makes it, of worst-group accuracies."""
    return pd.DataFrame(
        [
            {
                "dataset": dataset,
                "method": method,
                "group_labels": LABELS[method],
                "runs": runs,
                "seeds": 1 if method == "erm" else seeds,
                "worst_group_percent": value,
                "worst_group_deviation": None if method == "erm" else spread,
                "average_percent": 95.0,
                "average_deviation": 0.1,
                "worst_class_percent": value,
                "worst_class_deviation": None if method == "erm" else spread,
            }
            for method, value in worst.items()
        ]
    )


def said(sentences: list[str]) -> str:
    return " ".join(sentences).replace("\N{NO-BREAK SPACE}", " ")


def test_the_best_method_is_named_with_its_lead_over_erm_and_the_best_other():
    text = said(best_method(main_table(erm=65.8, llr=88.0, hsfm=92.4)))
    assert text.startswith(
        "On birds HSFM has the highest worst-group accuracy, 92.4 ± 0.1 %: 26.6 points above ERM (65.8 %) and "
        "4.4 points above the best other, LLR (88.0 ± 0.1 %)."
    )
    assert "no difference" not in text
    assert "Average accuracy of HSFM: 95.0 %, of ERM 95.0 %." in text


def test_a_lead_within_the_deviations_is_called_none():
    text = said(best_method(main_table(erm=65.8, dfr=92.2, llr=92.3, hsfm=92.4)))
    assert "LLR and DFR lie within the deviations: that is no difference." in text
    text = said(best_method(main_table(erm=65.8, llr=92.3, hsfm=92.4, spread=0.01)))
    assert "no difference" not in text


def test_a_tested_tie_is_what_counts():
    table = main_table(erm=65.8, dfr=90.0, hsfm=92.4)
    tied = said(best_method(table.assign(worst_group_best=[False, True, True])))
    assert "DFR cannot be told apart from HSFM on these test images" in tied
    untied = said(best_method(table.assign(worst_group_best=[False, False, True], spread=99.0)))
    assert "All other methods are told apart from it" in untied


def test_the_interval_of_the_gain_over_erm_is_said_where_it_is_known():
    table = main_table(erm=65.8, hsfm=92.4)
    known = table.assign(worst_group_to_erm_low=[None, 22.3], worst_group_to_erm_high=[None, 30.6])
    assert "26.6 points above ERM (65.8 %; 95 % interval of the difference 22.3 to 30.6)" in said(best_method(known))
    assert "interval" not in said(best_method(table))


def test_equal_numbers_are_shared_and_labels_in_training_are_said():
    text = said(best_method(main_table(erm=60.0, llr=92.38, hsfm=92.42)))
    assert text.startswith(
        "On birds HSFM and LLR share the highest worst-group accuracy, 92.4 %: 32.4 points above ERM"
    )
    text = said(best_method(main_table(erm=60.0, dfr=95.0, llr=90.0)))
    assert "Among those that train without group labels LLR is best, 90.0 ± 0.1 %." in text


def test_erm_alone_and_erm_at_the_top():
    assert said(best_method(main_table(erm=60.0))).startswith(
        "On birds ERM has the highest worst-group accuracy, 60.0 %. Average"
    )
    text = said(best_method(main_table(erm=95.0, dac=20.0)))
    assert "ERM has the highest worst-group accuracy, 95.0 %: 75.0 points above the best other, DaC" in text


def test_where_no_group_is_known_the_worst_class_is_compared():
    table = main_table(erm=60.0, hsfm=70.0).assign(worst_group_percent=None, worst_group_deviation=None)
    assert "HSFM has the highest worst-class accuracy, 70.0 ± 0.1 %" in said(best_method(table))


def test_what_group_labels_were_used_for():
    text = said(group_labels(main_table(erm=60.0, dfr=90.0, llr=90.0, dac=20.0, hsfm=91.0)))
    assert "DFR trained on the group labels of validation images; DaC and HSFM used those of validation" in text
    assert "ERM and LLR used none." in text
    assert said(group_labels(main_table(erm=60.0, llr=90.0))) == "No method used group labels."


@pytest.mark.parametrize(
    ("runs", "seeds", "text"),
    [
        (1, 3, "means over 3 seeds of each method (ERM: one head), all on one trained network"),
        (3, 2, "means over 3 trained networks, each the mean of 2 seeds of the method (ERM: one head)"),
        (2, 1, "means over 2 trained networks; ±"),
        (1, 1, "One seed on one trained network: there is no deviation"),
    ],
)
def test_over_how_many(runs, seeds, text):
    assert text in repetitions(main_table(erm=60.0, hsfm=90.0, runs=runs, seeds=seeds))


# The page -------------------------------------------------------------------------------------------------------------


def png(width: int = 32, height: int = 16) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "PNG")
    return file.getvalue()


def table(name: str = "main", made_from: tuple[tuple[str, ...], ...] = (), text: str = 'ERM <b> & "co"') -> Table:
    rows = ((Cell(text), Cell("no"), Cell("65.8", bold=True)), (Cell("DFR"), Cell("val"), Cell("-", order=3.0)))
    fragment = TextTable(("Method", "Labels", "worst"), rows, ("A <note> & more.",), made_from=made_from)
    return Table(name, fragment.html(f"table-{name}"), "A caption with ``code <x>``.\n\nA second\nparagraph.")


def page(tables=None, pictures=None, settings="runs: [0]\n", provenance=MADE) -> str:
    tables = [table()] if tables is None else tables
    pictures = [Picture("birds", "groups", png(), "What it shows: <bars>.")] if pictures is None else pictures
    return write_page(tables, pictures, main_table(erm=60.0, hsfm=90.0), settings, provenance)


VOID = {"meta", "link", "img", "br"}


class Nesting(HTMLParser):
    """Elements as a tree: what is opened is closed, in order; ids are there once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.commands, self.images = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in VOID:
            self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if tag == "a" else []
        self.commands += [attributes["data-command"]] if "data-command" in attributes else []
        self.images += [attributes] if tag == "img" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"


def test_the_page_nests_and_its_links_lead_somewhere():
    parsed = Nesting(
        page(
            [table("main"), table("metrics"), table("ablations"), table("mine"), table("more")],
            provenance=replace(MADE, seconds=500.0),
        )
    )
    assert len(parsed.ids) == len(set(parsed.ids))
    anchors = [link.removeprefix("#") for link in parsed.links if link.startswith("#")]
    assert set(anchors) <= set(parsed.ids)
    assert {"summary", "results", "about-main", "studies", "more", "about-mine", "definitions"} <= set(anchors)


def test_texts_cannot_break_out_of_the_page():
    text = page([table(text="<script>alert(1)</script>")], settings="key: </pre><script>alert(2)</script>\n")
    assert text.count("<script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "A caption with <code>code &lt;x&gt;</code>." in text
    assert "What it shows: &lt;bars&gt;." in text


def test_nothing_is_fetched():
    text = page()
    assert "default-src 'none'" in text
    assert "http://" not in text
    assert "https://" not in text


def test_every_row_has_its_command():
    files = (("results/birds/run0/erm/scores.parquet",), ("results/birds/run0/dfr/scores.parquet", "results/x.parquet"))
    commands = Nesting(page([table(made_from=files)])).commands
    assert commands[1] == (
        "snakemake results/birds/run0/dfr/scores.parquet results/x.parquet --cores 2 --configfile results/config.yaml"
    )
    known = Nesting(page([table(made_from=files)], provenance=replace(MADE, commit="abc1234"))).commands
    assert known[0].startswith("git checkout abc1234\nsnakemake results/birds/run0/erm/scores.parquet --cores 2")
    of_the_table = "snakemake results/tables/main.md --cores 2 --configfile results/config.yaml"
    assert Nesting(page([table()])).commands == [of_the_table] * 2
    assert Nesting(page([table(made_from=(files[0], ()))])).commands[1] == of_the_table


def test_pictures_say_what_they_show_and_how_large_they_are():
    shown, _ = Nesting(page(pictures=[Picture("birds", "groups", png(160, 80), "Bars: what they are.")])).images
    assert shown["alt"] == "Accuracy by group, birds. Bars: what they are."
    assert (shown["width"], shown["height"]) == ("96", "48")
    with pytest.raises(ValueError, match="figure groups of birds: not a PNG file"):
        page(pictures=[Picture("birds", "groups", b"%PDF-1.5" + b" " * 40, "")])


@pytest.mark.parametrize("fragment", ["<figure><table>", "<p>none</p>", ""])
def test_what_is_no_table_is_named(fragment):
    with pytest.raises(ValueError, match="table main: not a table as hsfm"):
        page([Table("main", fragment, "")])


def test_how_it_came_about_is_said():
    known = Provenance(date(2026, 11, 26), seconds=491.0, version="0.10.0", commit="0123456789abcdef", dirty=True)
    text = page(provenance=known)
    assert "All stages together took 8 min 11 s by the clock" in text
    assert "Made by hsfm 0.10.0, commit 0123456789ab, with changes that were not committed." in text
    assert "26 November 2026" in text
    mixed = page(provenance=replace(known, dirty=False, mixed=True))
    assert "commit 0123456789ab; some results by other commits, which the topic Versions has." in mixed
    assert "there is no record of the jobs" in page()


def test_provenance_is_that_of_most_jobs():
    stages = pd.DataFrame({"seconds": [10.0, None, 2.5]})
    versions = pd.DataFrame({"hsfm": ["0.9", "1.0"], "commit": ["aaa", "bbb"], "dirty": [None, True], "jobs": [1, 20]})
    found = provenance(MADE.made, stages, versions)
    assert found == Provenance(MADE.made, 12.5, "1.0", "bbb", dirty=True, mixed=True)
    assert "not all made from one commit" in page(provenance=found)
    nothing = provenance(MADE.made, stages.iloc[1:2], versions.iloc[:0])
    assert nothing == MADE


def test_paragraphs_and_literals_of_a_caption():
    assert str(caption_html("One\ntwo ``a < b``.\n\nThree & four.\n")) == (
        "<p>One two <code>a &lt; b</code>.</p>\n<p>Three &amp; four.</p>"
    )


def test_every_listed_result_has_a_caption_in_plain_text():
    names = {("tables", name) for topic in contents.TOPICS for name in topic.tables}
    names |= {("figures", name) for topic in contents.TOPICS for name in topic.figures}
    files = {(path.parent.name, path.stem): path for path in (ROOT / "workflow/report").glob("*/*.rst")}
    assert set(files) <= names, "hsfm/report/contents.py lists what workflow/report has captions of"
    assert len(files) > 20
    for path in files.values():
        text = path.read_text()
        assert 1 <= text.count(". ") + text.count(".\n") <= 6, path
        assert not set("*|{}_") & set(text.replace("``", "")), path


def test_names_that_are_not_listed_are_words():
    assert contents.table_title("of_mine") == "Of mine"
    assert contents.figure_topic("of_mine") == contents.OTHERS
    assert contents.figure_title("sweep") != contents.table_title("sweep")
