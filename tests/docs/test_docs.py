"""The documentation: built without a warning, complete, its links, its pages in a browser without a network.

Chromium comes from the system. Without one the tests of pages are skipped, or fail where HSFM_BROWSER=required is set.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from bs4 import BeautifulSoup
from playwright.sync_api import Page
from sphinx.util.inventory import InventoryFile

import hsfm
from hsfm.methods.hsfm import Settings as HSFM
from tests.repository import ROOT, python

SHOWN_BY_GITHUB = ("*.md", "results/README.md")
MENTIONED_IN = (*SHOWN_BY_GITHUB, "docs/**/*.md", "*.cff", "benchmarks/*.py", "config/*.yaml", "hsfm/**/*.py",
                "profiles/**/*", "tests/**/*.py", "workflow/**/*.*")  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("docs") / "html"
    python(ROOT, "-m", "sphinx", "-W", "--keep-going", "-n", "-b", "html", "docs", str(out))
    return out


@pytest.fixture(scope="module")
def inventory(site) -> dict[str, dict]:
    with open(site / "objects.inv", "rb") as file:
        return InventoryFile.load(file, "", lambda _, name: name)


@pytest.fixture(scope="module")
def reference(site) -> BeautifulSoup:
    return BeautifulSoup((site / "reference/configuration.html").read_text(), "html.parser")


def files(patterns: tuple[str, ...]) -> list[Path]:
    found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not {"_build", "__pycache__"} & set(path.parts))


def keys(settings: dict, path: str = "") -> Iterator[tuple[str, object]]:
    for key, value in settings.items():
        here = f"{path}/{key}" if path else key
        yield here, value
        if isinstance(value, dict):
            yield from keys(value, here)


def test_every_key_of_every_configuration_is_in_the_reference(reference, inventory):
    known = set(inventory["std:confval"]) | {heading.contents[0] for heading in reference.find_all("h3")}
    for file in sorted((ROOT / "config").glob("*.yaml")):
        config = yaml.safe_load(file.read_text())
        settings = config.pop("settings")
        found = {key for key, _ in keys(config)}
        for dataset, own in settings.items():
            source = own.get("images", {}).get("source", dataset)
            for key, _ in keys(own):
                first, _, rest = key.partition("/")
                found.add(f"images/{source}/{rest}" if first == "images" and rest not in ("", "source") else key)
        assert found <= known, file.name


def test_the_reference_says_what_the_default_is(reference):
    (name,) = [one for one in reference.select("dt.sig .sig-name") if one.text == "hsfm/inner_lr"]
    said = name.find_parent("dl").find("dd").find(lambda tag: tag.name == "dt" and tag.text.startswith("Default"))
    assert float(said.find_next_sibling("dd").text) == HSFM().inner_lr


def test_every_public_name_is_in_the_reference(inventory):
    named = {name for kind in ("py:function", "py:class") for name in inventory[kind]}
    for thing in (getattr(hsfm, name) for name in hsfm.__all__):
        assert f"{thing.__module__}.{thing.__name__}" in named


def slugs(text: str) -> set[str]:
    """Anchors of headings as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.replace("`", "")).lower() for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("path", files(SHOWN_BY_GITHUB), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_pages_that_sphinx_does_not_read_lead_somewhere(path):
    text = re.sub(r"^(```+).*?^\1|<!--.*?-->", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^()\s]+)\)", re.sub(r"`[^`\n]*`", "", text)):
        if urlsplit(target).scheme:  # whether it answers is for `sphinx-build -b linkcheck`, where there is a network
            assert re.match(r"https://[a-z0-9.-]+\.[a-z]{2,}(/|$)", target), target
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), target
        assert file.is_relative_to(ROOT), target
        assert not anchor or anchor in slugs(file.read_text()), target


def test_pages_that_code_and_settings_name_are_there():
    named = 0
    for path in files(MENTIONED_IN):
        for name, anchor in re.findall(r"\b(docs/[\w/-]+\.md)(?:#([\w-]+))?", path.read_text(errors="ignore")):
            named += 1
            assert (ROOT / name).is_file(), f"{path}: {name}"
            assert not anchor or anchor in slugs((ROOT / name).read_text()), f"{path}: {name}#{anchor}"
    assert named > 10


def test_the_readme_is_short_and_has_a_line_for_every_folder_and_none_for_another():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 120
    listed = re.findall(r"^    (\S+/)  +\S", readme.split("## What is where")[1], re.MULTILINE)
    assert len(listed) == len(set(listed))
    assert [name for name in listed if not (ROOT / name).exists()] == []
    packages = {f"{path.parent.relative_to(ROOT)}/" for path in ROOT.glob("hsfm/*/__init__.py")}
    others = "workflow snakemake_logger_plugin_hsfm config profiles tests docs benchmarks results"
    assert packages | {f"{name}/" for name in others.split()} <= set(listed)


def test_the_tests_that_the_table_of_faults_names_are_there():
    """By the beginning of their names; in tests/workflow/test_faults.py where no file is named."""
    page = (ROOT / "docs/how-to/after-an-error.md").read_text()
    rows = [line for line in page.split("\n## ")[0].splitlines() if line.startswith("|")][2:]
    named = [name for row in rows for name in re.findall(r"`(?:(test_\w+\.py): )?([a-z_]+)`", row.split(" | ")[-1])]
    assert len(named) > len(rows)
    for file, name in named:
        tests = "".join(path.read_text() for path in (ROOT / "tests").rglob(file or "test_faults.py"))
        assert f"\ndef test_{name}" in tests, f"{file}: {name}"


@pytest.mark.parametrize("width", [1280, 400])
def test_pages_open_from_files_and_ask_for_nothing_else(browser, site, width):
    context = browser.new_context(viewport={"width": width, "height": 900})
    errors, outside = [], []
    page: Page = context.new_page()
    page.on("request", lambda request: outside.append(request.url) if not request.url.startswith("file:") else None)
    page.on("requestfailed", lambda request: errors.append(request.url))
    page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    for path in sorted(site.rglob("*.html")):
        page.goto(path.as_uri())
        pictures = page.locator("main img, article img, .content img")
        decoded = "images => Promise.all(images.map(i => (i.loading = 'eager', i.decode().then(() => i.naturalWidth))))"
        assert all(pictures.evaluate_all(decoded)), path
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    assert errors == []
    assert outside == []
    context.close()


def test_equations_are_drawn(browser, site):
    page = browser.new_page()
    page.goto((site / "explanation/method.html").as_uri())
    boxes = [block.bounding_box() for block in page.locator("div.equation math").all()]
    assert len(boxes) > 7
    assert all(box["height"] > 15 and box["width"] > 100 for box in boxes)
    assert "\\" not in page.locator("article").inner_text(), "no LaTeX is left over"
    page.close()
