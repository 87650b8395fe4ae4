"""The page in a browser, opened from a file with no network.

Chromium comes from the system. Without one these tests are skipped, or fail where HSFM_BROWSER=required is set.
"""

from pathlib import Path

import pytest
from playwright.sync_api import Page

from hsfm.core.text_tables import Cell, TextTable
from tests.report.test_page import COMMAND, page

SETTINGS = "runs: [0]\nseeds: [0, 1]\n"


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """A page with a table that sorts, a wide one, and a figure."""
    texts = {"ERM": "9 s", "DFR": "2 min", "LLR": "-", "AFR": "", "DaC": "-3.5", "X": "1,000"}
    cells = [(Cell(name), Cell(text, order=120.0 if name == "DFR" else None)) for name, text in texts.items()]
    sources = tuple((f"results/{row[0].text}/scores.parquet",) for row in cells)
    main = TextTable(("Method", "n"), tuple(cells), ("A note.",), text_columns=1, made_from=sources)
    wide = TextTable(tuple(f"column {k}" for k in range(30)), ((Cell("a rather long text"),) * 30,) * 3, ("Notes.",))
    path = tmp_path_factory.mktemp("page") / "report.html"
    rows = (("birds", "a", "1"), ("birds", "b", "2"), ("faces", "c", "3 (few)"), ("faces", "d", "40"))
    groups = TextTable(("Dataset", "Group", "n"), tuple(tuple(map(Cell, row)) for row in rows), ("N.",), sectioned=True)
    tables = {"main": main, "metrics": wide, "groups": groups}
    fragments = {name: table.html(f"table-{name}") for name, table in tables.items()}
    path.write_text(page(settings=SETTINGS, **fragments))
    return path


@pytest.fixture
def opened(browser, file):
    """Open the page; at the end no tab has had an error or asked for anything outside."""
    contexts, errors = [], []

    def open_(**options) -> Page:
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        tab = context.new_page()
        tab.on("request", lambda asked: asked.url.startswith(("file:", "data:")) or errors.append(asked.url))
        tab.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(file.as_uri())
        return tab

    yield open_
    for context in contexts:
        context.close()
    assert errors == []


def test_the_contents_lead_to_what_they_name(opened):
    tab = opened()
    assert tab.locator("nav a").count() > 6
    for link in tab.locator("nav a").all():
        link.click()
        target = tab.locator(link.get_attribute("href"))
        assert target.bounding_box()["y"] < 900
        heading = target if target.evaluate("e => e.tagName").startswith("H") else target.locator("h2")
        assert heading.inner_text() == link.inner_text()


def test_columns_sort_by_mouse_and_keyboard(opened):
    """Numbers by their size or data-order, highest first; unknown ones last, whichever way."""
    tab = opened()
    table = tab.locator("#table-main table")

    def column(number: int) -> list[str]:
        return table.locator(f"tbody tr td:nth-child({number})").all_inner_texts()

    as_written, head = column(2), table.locator("th").nth(1)
    head.locator("button").click()
    assert head.get_attribute("aria-sort") == "descending"
    assert column(2) == ["1,000", "2 min", "9 s", "-3.5", "-", ""]
    tab.keyboard.press("Enter")
    assert column(2) == ["-3.5", "9 s", "2 min", "1,000", "-", ""]
    tab.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "none"
    assert column(2) == as_written
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Enter")
    assert column(1) == sorted(column(1), key=str.lower)
    assert "Sorted by Method, ascending" in tab.locator("#said").inner_text()


def test_columns_sort_within_the_block_of_each_dataset(opened):
    tab = opened(viewport={"width": 400, "height": 800})
    table = tab.locator("#table-groups table")
    assert [head.inner_text() for head in table.locator("thead button").all()] == ["Group", "n"]
    table.locator("th").nth(1).locator("button").click()
    assert [row.split("\t")[0] for row in table.locator("tbody tr").all_inner_texts()] == [
        "birds", "b", "a", "faces", "d", "c"
    ]  # fmt: skip
    assert table.locator("tbody tr.section").count() == 2
    assert table.locator("tr.section button").count() == 0


def test_figures_enlarge_and_close(opened):
    tab = opened()
    dialog, first = tab.locator("#enlarged"), tab.locator("button.enlarge").first
    small = first.locator("img").bounding_box()["width"]
    for close in (
        lambda: tab.keyboard.press("Escape"),
        lambda: dialog.locator("button.close").click(),
        lambda: tab.mouse.click(3, 3),
    ):
        first.click()
        assert dialog.locator("img").bounding_box()["width"] > small
        assert dialog.locator("h2").inner_text() == "Accuracy by group: birds"
        close()
        assert not dialog.is_visible()
        assert first.evaluate("e => e === document.activeElement")


def test_commands_and_settings_are_shown_and_copied(opened):
    tab = opened(permissions=["clipboard-read", "clipboard-write"])
    for table, row, made in (("main", 1, "results/DFR/scores.parquet"), ("metrics", 2, "results/tables/metrics.html")):
        tab.locator(f"#table-{table} button.reproduce").nth(row).click()
        command = tab.locator("#command pre").inner_text()
        assert command == f"{COMMAND} {made}"
        tab.locator("#command button.copy").click()
        tab.wait_for_function("navigator.clipboard.readText().then(text => text.includes('--cores 2 results/'))")
        assert tab.evaluate("navigator.clipboard.readText()") == command
        tab.keyboard.press("Escape")
    tab.locator("details.settings summary").click()
    assert tab.locator("#settings-text").text_content() == SETTINGS
    with tab.expect_download() as download:
        tab.get_by_text("download the file").click()
    assert Path(download.value.path()).read_text() == SETTINGS


@pytest.mark.parametrize("width", [400, 1280])
def test_wide_tables_scroll_in_their_own_frame(opened, width):
    tab = opened(viewport={"width": width, "height": 800})
    tab.locator("details").evaluate_all("all => all.forEach(d => (d.open = true))")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    frame = tab.locator("#table-metrics .scroll")
    assert frame.evaluate("e => e.scrollWidth > e.clientWidth")
    first = frame.locator("tbody td").first
    before = first.bounding_box()["x"]
    frame.evaluate("e => e.scrollTo(200, 0)")
    moved = before - first.bounding_box()["x"]
    assert moved == pytest.approx(200 if width == 1280 else 0, abs=1), "the first column stays on a narrow screen"


def test_dark_screens_and_paper(opened):
    tab = opened(color_scheme="dark")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    card = tab.locator("figure.picture > button").first.evaluate("e => getComputedStyle(e).backgroundColor")
    assert card == "rgb(255, 255, 255)", "figures are drawn for white paper"
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for hidden in ("nav", "button.reproduce", "button.copy"):
        assert not tab.locator(hidden).first.is_visible(), hidden
    assert tab.locator("figure.table table").first.is_visible()


def test_it_can_be_read_without_scripts(opened):
    tab = opened(java_script_enabled=False)
    assert tab.locator("#table-main td").first.is_visible()
    assert tab.locator("main img").first.is_visible()
    assert not tab.locator("button.copy").first.is_visible()
