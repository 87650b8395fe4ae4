"""The page's HTML: everything is in it once, and nothing in it can break it."""

import itertools
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

from PIL import Image

from hsfm.core.text_tables import Cell, TextTable
from hsfm.report import contents
from hsfm.report.page import write_page
from tests.report.test_summary import MADE, measured

ROOT = Path(__file__).parents[2]
COMMAND = "snakemake --configfile results/config.yaml --cores 2"


def png(width: int = 320, height: int = 160) -> bytes:
    file = BytesIO()
    Image.new("RGB", (width, height), "white").save(file, "PNG")
    return file.getvalue()


def table(name: str = "main", made_from: tuple[tuple[str, ...], ...] = (), text: str = 'ERM <b> & "co"') -> str:
    rows = ((Cell(text), Cell("no"), Cell("65.8", bold=True)), (Cell("DFR"), Cell("val"), Cell("-", order=3.0)))
    fragment = TextTable(("Method", "Labels", "worst"), rows, ("A <note> & more.",), made_from=made_from)
    return fragment.html(f"table-{name}")


def page(tables=("main",), figures=("birds/groups",), settings="runs: [0]\n", provenance=MADE, **fragments) -> str:
    """A page of small tables and pictures. fragments: tables by name that are given."""
    fragments = {name: table(name) for name in tables} | fragments
    captions = {("tables", name): "A caption with ``code <x>``.\n\nA second\nparagraph." for name in fragments}
    captions |= {("figures", Path(name).stem): "Bars: <what> they are. More." for name in figures}
    return write_page(
        {f"results/tables/{name}.html": fragment for name, fragment in fragments.items()},
        {f"results/figures/{name}.png": png() for name in figures},
        captions,
        measured(erm=60.0, hsfm=90.0),
        provenance,
        settings=settings,
        settings_file="results/config.yaml",
        command=COMMAND,
    )


class Nesting(HTMLParser):
    """Elements as a tree: what is opened is closed, in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.ids, self.links, self.images = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in {"meta", "link", "img", "br"}:
            self.open.append(tag)
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.links += [attributes["href"]] if tag == "a" else []
        self.images += [attributes] if tag == "img" else []

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"


def test_the_page_nests_and_its_links_lead_somewhere():
    parsed = Nesting(page(["more", "stages", "metrics", "costs", "mine", "main"]))
    assert len(parsed.ids) == len(set(parsed.ids))
    anchors = [link.removeprefix("#") for link in parsed.links if link.startswith("#")]
    assert set(anchors) <= set(parsed.ids)
    places = ["results", "about-main", "groups", "costs", "about-stages", "more", "about-mine", "definitions"]
    assert [anchor for anchor in anchors if anchor in places] == places


def test_texts_cannot_break_out_of_the_page():
    odd = table(text="<script>alert(1)</script>")
    text = page(main=odd, settings="key: </pre><script>alert(2)</script>\n")
    assert text.count("<script>") == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    assert "<p>A caption with <code>code &lt;x&gt;</code>.</p>\n<p>A second paragraph.</p>" in text
    assert "Bars: &lt;what&gt; they are." in text
    assert "default-src 'none'" in text
    assert "http://" not in text
    assert "https://" not in text


def test_pictures_say_what_they_show_and_how_large_they_are():
    shown, _ = Nesting(page()).images
    assert shown["alt"] == "Accuracy by group, birds. Bars: <what> they are."
    assert (shown["width"], shown["height"]) == ("192", "96")
    assert "Accuracy by group: birds</h3>" in page()


def test_commands_name_the_commit():
    text = page(provenance=replace(MADE, commit="abc1234"))
    assert f'data-command="git checkout abc1234\n{COMMAND}"' in text
    assert f'data-command="{COMMAND}"' in page()


def test_every_listed_result_has_a_caption_in_plain_text():
    files = {(path.parent.name, path.stem): path for path in (ROOT / "hsfm/report/captions").glob("*/*.rst")}
    assert set(files) == set(contents.RESULTS)
    for path in files.values():
        text = path.read_text()
        assert 1 <= text.count(". ") + text.count(".\n") <= 6, path
        assert not set("*|{}_") & set(text.replace("``", "")), path


def test_names_that_are_not_listed_are_words():
    assert contents.place("tables", "of_mine") == (len(contents.RESULTS), contents.OTHERS, "Of mine")


def test_texts_stand_out_from_what_is_behind_them():
    """Contrast by WCAG, of the light colors and of the dark ones."""
    css = (ROOT / "hsfm/report/templates/report.css").read_text()
    for part in re.findall(r":root \{(.*?)\}", css, re.S):
        light = {
            name: sum(
                weight
                * (v / 12.92 if (v := int(color[k : k + 2], 16) / 255) <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4)
                for k, weight in ((0, 0.2126), (2, 0.7152), (4, 0.0722))
            )
            for name, color in re.findall(r"--([\w-]+): #(\w{6});", part)
        }
        for text, behind in itertools.product(("ink", "soft", "accent"), ("paper", "shade")):
            low, high = sorted([light[text], light[behind]])
            assert (high + 0.05) / (low + 0.05) >= 4.5, (text, behind)
