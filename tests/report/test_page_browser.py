"""Both reports of a finished run in a browser: our page and Snakemake's, opened from files, with no network.

Chromium comes from the system. Without one these tests are skipped, or fail where HSFM_BROWSER=required is set.
"""

import re
import shlex
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from hsfm.report import contents
from tests.report.test_page import Nesting
from tests.repository import MINIMAL, copy_repository, snakemake

DEAD = {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https", "ftp", "all")}
# luminances by WCAG; the ratio of a text's color to that of what lies behind it
CONTRASTS = """
() => {
  const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = channels(getComputedStyle(at).backgroundColor);
      if (colour[3] === undefined || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const texts = [...document.querySelectorAll("body *")].filter((element) =>
    element.checkVisibility() && [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim()));
  return texts.map((element) => {
    const pair = [channels(getComputedStyle(element).color), behind(element)].map(luminance).sort((a, b) => b - a);
    return [element.outerHTML.slice(0, 80), (pair[0] + 0.05) / (pair[1] + 0.05)];
  });
}
"""


@pytest.fixture(scope="module")
def finished(browser, tmp_path_factory) -> Path:
    """A copy in which the minimal workflow has run, and Snakemake has written its report; for reading."""
    folder = copy_repository(tmp_path_factory.mktemp("report") / "hsfm")
    snakemake(folder, *MINIMAL)
    with pytest.MonkeyPatch.context() as patch:
        for name, proxy in DEAD.items():  # what would be fetched from the network is not
            patch.setenv(name, proxy)
            patch.setenv(name.upper(), proxy)
        snakemake(folder, *MINIMAL, "--report", "snakemake-report.html")
    return folder


class Opened:
    """A file in a tab of its own. leaving: requests to anywhere but files and data, none of which is let through."""

    def __init__(self, browser: Browser, file: Path, **options) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page: Page = self.context.new_page()
        self.errors, self.leaving = [], []
        self.context.route("**/*", self._route)
        self.page.on("request", self._asked)
        self.page.on("console", lambda said: self.errors.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(file.as_uri())

    def _asked(self, request) -> None:
        if not request.url.startswith(("file:", "data:", "blob:")):
            self.leaving.append(request.url)

    def _route(self, route) -> None:
        if route.request.url.startswith(("file:", "data:", "blob:")):
            route.continue_()
        else:
            route.abort()

    def close(self) -> None:
        self.context.close()
        assert self.errors == []
        assert self.leaving == []


@pytest.fixture
def opened(browser, finished):
    """Open a file of the finished run; at the end no tab has had an error or asked for anything outside."""
    tabs = []

    def open_(file: str = "results/report.html", **options) -> Page:
        tabs.append(Opened(browser, finished / file, **options))
        return tabs[-1].page

    yield open_
    for tab in tabs:
        tab.close()


def loaded(page: Page) -> list[int]:
    """Widths of all pictures of a page."""
    pictures = page.locator("main img")
    return pictures.evaluate_all("images => Promise.all(images.map(i => i.decode().then(() => i.naturalWidth)))")


def column(table, number: int) -> list[str]:
    return table.locator(f"tbody tr td:nth-child({number})").all_inner_texts()


# Our page -------------------------------------------------------------------------------------------------------------


def test_every_table_and_picture_of_the_run_is_there(opened, finished):
    page = opened()
    tables = sorted(path.stem for path in (finished / "results/tables").glob("*.html"))
    assert sorted(page.locator("figure.table").evaluate_all("all => all.map(t => t.id)")) == sorted(
        f"table-{name}" for name in tables
    )
    empty = page.locator("figure.table").evaluate_all("all => all.filter(t => !t.querySelector('td')).map(t => t.id)")
    assert set(empty) <= {"table-versions"}, "of jobs that have left no record"
    widths = loaded(page)
    assert len(widths) == len(list((finished / "results/figures").glob("*/*.png")))
    assert min(widths) > 100
    assert all(page.locator("main img").evaluate_all("images => images.map(i => i.alt.length > 40)"))


def test_the_page_answers_what_a_reader_asks_first(opened):
    page = opened()
    summary = page.locator("#summary").inner_text().replace("\N{NO-BREAK SPACE}", " ")
    assert re.search(r"On minibirds .+ the highest worst-group accuracy, \d+\.\d", summary)
    assert "points above ERM" in summary or "ERM has the highest" in summary
    assert "trained on the group labels of validation images" in summary
    assert "plain mean over test images" in summary
    assert "means over 2 seeds of each method" in summary
    assert re.search(r"All stages together took [\d.]+ (s|min|h)\b|no record of the jobs", summary)


def test_the_source_nests_and_the_contents_lead_to_what_they_name(opened, finished):
    text = (finished / "results/report.html").read_text()
    parsed = Nesting(text)
    assert len(parsed.ids) == len(set(parsed.ids))
    page = opened()
    links = page.locator("nav a")
    assert links.count() > 10
    for link in links.all():
        link.click()
        target = page.locator(link.get_attribute("href"))
        # within the window, and called what the link says
        assert target.bounding_box()["y"] < 900
        heading = target if target.evaluate("e => e.tagName").startswith("H") else target.locator("h2")
        assert heading.inner_text() == link.inner_text()


def test_columns_sort_by_mouse_and_keyboard(opened):
    page = opened()
    table = page.locator("#table-main table")
    as_written = column(table, 3)
    head = table.locator("th").nth(2)
    button = head.locator("button")
    numbers = [float(text.split()[0]) for text in as_written]
    assert len(set(numbers)) > 1

    def shown() -> list[float]:
        return [float(text.split()[0]) for text in column(table, 3)]

    button.click()
    assert head.get_attribute("aria-sort") == "descending"
    assert shown() == sorted(numbers, reverse=True)
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    assert shown() == sorted(numbers)
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "none"
    assert column(table, 3) == as_written

    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    assert table.locator("th").nth(1).get_attribute("aria-sort") == "ascending"
    assert column(table, 2) == sorted(column(table, 2))
    assert "Sorted by Group labels" in page.locator("#said").inner_text()


def test_what_is_not_known_sorts_last_and_data_order_counts(opened):
    page = opened()
    page.evaluate(
        """() => {
          const table = document.createElement("table");
          const cells = ["-", "9 s", ["2 min", 120], "", "-3.5", "1,000"].map((c) =>
            Array.isArray(c) ? `<td data-order="${c[1]}">${c[0]}</td>` : `<td>${c}</td>`);
          table.id = "mine";
          table.innerHTML = `<thead><tr><th class="number">n</th></tr></thead><tbody>
            ${cells.map((c) => `<tr>${c}</tr>`).join("")}</tbody>`;
          document.body.append(table);
          makeSortable(table);
        }"""
    )
    table = page.locator("#mine")
    table.locator("button").click()
    assert column(table, 1) == ["1,000", "2 min", "9 s", "-3.5", "-", ""]
    table.locator("button").click()
    assert column(table, 1) == ["-3.5", "9 s", "2 min", "1,000", "-", ""]


def test_figures_enlarge_and_close(opened):
    page = opened(viewport={"width": 1600, "height": 1000})
    dialog = page.locator("#enlarged")
    first = page.locator("button.enlarge").first
    small = first.locator("img").bounding_box()["width"]
    for close in ("Escape", "button", "beside"):
        first.focus()
        page.keyboard.press("Enter") if close == "Escape" else first.click()
        assert dialog.is_visible()
        assert dialog.locator("img").evaluate("i => i.naturalWidth") > 100
        assert dialog.locator("img").bounding_box()["width"] > small
        assert dialog.locator("h2").inner_text() != "Figure"
        if close == "Escape":
            page.keyboard.press("Escape")
        elif close == "button":
            dialog.locator("button.close").click()
        else:
            page.mouse.click(3, 3)
        assert not dialog.is_visible()
        assert first.evaluate("e => e === document.activeElement")


def test_the_command_of_a_row_is_shown_copied_and_valid(opened, finished):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    buttons = page.locator("#table-main tbody button.reproduce")
    assert buttons.count() == page.locator("#table-main tbody tr").count()
    buttons.nth(1).click()
    dialog = page.locator("#command")
    command = dialog.locator("pre").inner_text()
    assert "results/minibirds/run0/dfr/" in command
    dialog.locator("button.copy").click()
    page.wait_for_function("document.querySelector('#command button.copy').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == command
    page.keyboard.press("Escape")
    assert not dialog.is_visible()

    (call,) = [line for line in command.splitlines() if line.startswith("snakemake ")]
    out = snakemake(finished, *shlex.split(call)[1:], "--dry-run").stdout
    assert "Nothing to be done" in out
    out = snakemake(finished, *shlex.split(call)[1:], "--dry-run", "--forceall").stdout
    assert re.search(r"^fit_dfr +1$", out, re.MULTILINE)
    whole = page.locator("#reproduce-all").inner_text().splitlines()[-1]
    assert "Nothing to be done" in snakemake(finished, *shlex.split(whole)[1:], "--dry-run").stdout


def test_all_rows_but_of_the_machine_say_what_they_are_made_from(opened):
    page = opened()
    bare = page.locator("figure.table").evaluate_all(
        "all => all.filter(t => t.querySelector('tbody tr:not([data-made-from])')).map(t => t.id)"
    )
    assert set(bare) <= {"table-costs", "table-stages", "table-settings", "table-versions"}
    assert page.locator("figure.table tbody tr:not(:has(button.reproduce))").count() == 0


def test_settings_are_on_the_page_and_copied(opened, finished):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.locator("details.settings summary").click()
    settings = (finished / "results/config.yaml").read_text()
    assert page.locator("#settings-text").text_content() == settings
    page.locator("details.settings button.copy").click()
    page.wait_for_function("document.querySelector('details.settings button.copy').textContent === 'Copied'")
    assert page.evaluate("navigator.clipboard.readText()") == settings
    with page.expect_download() as download:
        page.get_by_text("download the file").click()
    assert Path(download.value.path()).read_text() == settings


@pytest.mark.parametrize("width", [400, 768, 1280])
def test_the_page_never_scrolls_sideways(opened, width):
    page = opened(viewport={"width": width, "height": 800})
    page.locator("details").evaluate_all("all => all.forEach(d => (d.open = true))")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    wide = page.locator("main *:visible").evaluate_all(
        f"all => all.filter(e => !e.closest('.scroll, pre') && e.getBoundingClientRect().right > {width})"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert wide == []


def test_wide_tables_scroll_in_their_own_frame(opened):
    page = opened(viewport={"width": 400, "height": 800})
    frame = page.locator("#table-metrics .scroll")
    assert frame.evaluate("e => e.scrollWidth > e.clientWidth")
    first = frame.locator("tbody td").first
    before = first.bounding_box()["x"]
    frame.evaluate("e => e.scrollTo(200, 0)")
    assert first.bounding_box()["x"] == pytest.approx(before, abs=1), "the first column stays"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(opened, scheme):
    page = opened(color_scheme=scheme)
    ratios = page.evaluate(CONTRASTS)
    assert len(ratios) > 100
    assert [pair for pair in ratios if pair[1] < 4.5] == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark == (scheme == "dark")
    card = page.locator("figure.picture > button").first.evaluate("e => getComputedStyle(e).backgroundColor")
    assert card == "rgb(255, 255, 255)", "figures are drawn for white paper"


def test_it_prints_without_what_can_be_clicked(opened):
    page = opened(color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for hidden in ("nav", "button.reproduce", "button.copy", "th.reproduce"):
        assert not page.locator(hidden).first.is_visible(), hidden
    assert page.locator("figure.table table").first.is_visible()


def test_it_can_be_read_without_scripts(opened):
    page = opened(java_script_enabled=False)
    assert page.locator("#table-main td").first.is_visible()
    assert page.locator("main img").first.is_visible()
    assert not page.locator("button.reproduce").first.is_visible()


# Snakemake's ----------------------------------------------------------------------------------------------------------


def test_snakemakes_report_shows_every_result_with_caption_category_and_labels(opened, finished):
    page = opened("snakemake-report.html")
    page.wait_for_selector("#app nav, #app a")
    results = page.evaluate("results")
    files = {
        str(path.relative_to(finished))
        for path in (*(finished / "results/tables").glob("*.html"), *(finished / "results/figures").glob("*/*.png"))
    }
    assert set(results) == files
    for path, result in results.items():
        own = (finished / f"workflow/report/{path.split('/')[1]}/{Path(path).stem}.rst").read_text()
        shown = re.sub(r"<[^>]+>", "", result["caption"]).replace("&quot;", '"').replace("&amp;", "&")
        assert " ".join(shown.split()) == " ".join(own.replace("``", "").split()), path
        assert result["labels"]["result"].endswith(("(table)", "(figure)"))
        assert ("dataset" in result["labels"]) == ("/figures/" in path)
        assert result["job_properties"]["rule"] not in ("all", "write_report")
    seen = set()
    for category, parts in page.evaluate("categories").items():
        assert category != contents.OTHERS
        for part, paths in parts.items():
            assert part in ("all datasets", "minibirds")
            page.evaluate("app.setView({navbarMode: 'menu'})")
            page.locator("tbody").wait_for(state="detached")
            page.evaluate(
                "([category, subcategory]) => app.setView({navbarMode: 'subcategory', category, subcategory})",
                [category, part],
            )
            names = [results[path]["labels"]["result"] for path in paths]
            for name in names:  # by its label, then the eye beside it
                page.locator("tbody tr").filter(has_text=name).locator("a").first.click()
                page.wait_for_function("name => results[app.state.resultPath]?.labels.result === name", arg=name)
                seen.add(page.evaluate("app.state.resultPath"))
                if name.endswith("(table)"):
                    page.frame_locator("iframe").locator("figure.table th").first.wait_for()
                else:
                    page.wait_for_function("document.querySelector('#app img[src^=\"data:image/png\"]')?.naturalWidth")
    assert seen == files


def test_snakemakes_report_opens_with_what_it_is_about(opened):
    page = opened("snakemake-report.html")
    page.get_by_text("results/report.html").wait_for()
