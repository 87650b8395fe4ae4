"""Every code block of the documentation is run, planned or checked, or says why not.

The pages' clone is the finished minimal run, and has config/minimal.yaml as its default configuration, without the slow
AFR and DaC. A run without a target stops at the table: figures are tests/workflow's matter, and so are the README's
blocks. CONTRIBUTING.md says what the comments above blocks mean.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import yaml
from jsonschema import Draft202012Validator
from markdown_it import MarkdownIt

from hsfm.features.one_table import import_table
from tests import replicas
from tests.repository import ROOT, environment, run_python

TUTORIAL = "docs/tutorial.md"
MARK = re.compile(r"<!-- (?P<kind>file|plan only|not run): (?P<text>.+) -->")
SCHEMA = Draft202012Validator(json.loads((ROOT / "config/schema.json").read_text()))  # of a part of a configuration
WHOLE = re.compile(r"^snakemake --cores 2(?: --config(?:file)? (?:'.*'|\S+))*$", re.MULTILINE)  # runs without a target
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
SHOWN = ("text",)  # what a program prints, for reading
PAGES = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)


class Block(NamedTuple):
    language: str
    text: str
    kind: str  # of the comment above it; empty where there is none
    reason: str  # what the comment says: a file's name, or why the block is not run
    line: int


def blocks(page: str) -> list[Block]:
    """Code blocks in their order. An indented one, or one without a language, is an error."""
    found, mark = [], None
    for token in MarkdownIt().enable("table").parse((ROOT / page).read_text()):
        if token.type == "html_block":
            mark = MARK.fullmatch(token.content.strip())
        elif token.type == "code_block":
            raise AssertionError(f"{page}:{token.map[0] + 1}: indented block; write it between ``` with its language")
        elif token.type == "fence" and not token.info.startswith("{"):
            assert token.info, f"{page}:{token.map[0] + 1}: block without a language"
            kind, reason = (mark["kind"], mark["text"]) if mark else ("", "")
            found.append(Block(token.info, token.content, kind, reason, token.map[0] + 1))
            mark = None
        elif token.type.endswith("_open"):
            mark = None
    return found


@pytest.fixture(scope="module")
def clone(minimal_run, tmp_path_factory) -> Path:
    folder = shutil.copytree(minimal_run, tmp_path_factory.mktemp("pages") / "hsfm")
    config = yaml.safe_load((folder / "results/config.yaml").read_text())
    (folder / "config/config.yaml").write_text(yaml.safe_dump(config | {"methods": ["erm", "dfr", "llr", "hsfm"]}))
    return folder


def in_shell(script: str, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, env={**environment(folder), "PATH": path},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=580,
    )  # fmt: skip
    assert done.returncode == 0, f"{script}\n{done.stdout}"
    return done.stdout


def go_through(page: str, folder: Path) -> dict[int, str]:
    """Do what the blocks of a page ask for; what those that were run printed, by their lines."""
    printed = {}
    for block in blocks(page):
        if block.kind == "file":
            (folder / block.reason).write_text(block.text)
        elif block.kind == "plan only":
            for command in re.findall(r"^[^#\n].*", block.text.replace("\\\n", " "), re.MULTILINE):
                assert command.startswith("snakemake "), f"{page}:{block.line}: {command} cannot be planned"
                printed[block.line] = in_shell(f"{command} -n", folder)
        elif block.kind == "not run":
            for extras in re.findall(r"pip install .*\[([\w,]+)\]", block.text):
                assert set(extras.split(",")) <= EXTRAS
        elif block.language == "bash":
            printed[block.line] = in_shell(WHOLE.sub(r"\g<0> -- results/tables/main.md", block.text), folder)
        elif block.language == "python":
            printed[block.line] = run_python(block.text, folder)
    return printed


@pytest.fixture(scope="module")
def used(clone) -> dict[int, str]:
    """The clone after the tutorial, as the other pages take it for granted."""
    return go_through(TUTORIAL, clone)


@pytest.mark.parametrize("page", PAGES)
def test_no_block_is_left_out(page):
    for block in blocks(page):
        assert block.language in ("bash", "python", "yaml", "docker", *SHOWN), f"{page}:{block.line}"
        assert block.language in ("bash", "python", "yaml", *SHOWN) or block.kind == "not run", f"{page}:{block.line}"
        assert block.kind != "plan only" or block.language == "bash", f"{page}:{block.line}"
        if block.language == "yaml":
            assert list(SCHEMA.iter_errors(yaml.safe_load(block.text) or {})) == [], f"{page}:{block.line}"


def test_the_tutorial_runs(used, clone):
    by_line = list(used.values())
    assert "| HSFM |" in by_line[1], "the table"
    plan = by_line[3]  # back to the first value
    assert re.search(r"^fit_hsfm +1$", plan, re.MULTILINE)
    assert "train_erm" not in plan
    assert any("| land bird | water |" in text for text in by_line), "the data card"
    assert (clone / "predictions.csv").is_file()
    assert re.search(r"(?:^[a-z ]+, [a-z]+: [\d.]+ %\n){4}\Z", by_line[-1], re.MULTILINE)


@pytest.mark.parametrize("page", [page for page in PAGES if page != TUTORIAL and blocks(page)])
def test_the_blocks_of_a_page_run(page, used, clone):
    printed = go_through(page, clone)
    if page == "docs/how-to/own-embeddings.md":
        assert re.search(r"^test accuracy [01]\.\d{3}, epoch \d+ kept$", "".join(printed.values()), re.MULTILINE)
        assert re.search(r"^seed 2: worst group [\d.]+ %$", "".join(printed.values()), re.MULTILINE)
    if page == "docs/how-to/compare.md":
        assert re.search(r"^HSFM +val, to select +[\d.]+", printed_by(printed), re.MULTILINE)
        assert (clone / "compared/report.html").is_file()
    if page == "docs/how-to/several-attributes.md":
        assert re.search(r"^Method +Group labels +worst group +95 % interval +worst value", printed_by(printed), re.M)
    if page == "docs/how-to/text.md":
        assert re.search(r"^LLR +no +[\d.]+", printed_by(printed), re.MULTILINE)
        check_layouts_of_text(clone)
    if page == "docs/how-to/tables.md":
        assert re.search(r"^DFR +val, to train +[\d.]+", printed_by(printed), re.MULTILINE)
        replicas.write_celeba(clone / "data/celeba", "kaggle")
        run_python((clone / "celeba_table.py").read_text(), clone)
        columns = {"y": "hair", "attribute": "gender", "split": "partition"}
        found = import_table(clone / "celeba.csv", "celeba", columns)["train"]
        assert found.features.shape[1] == 39
        assert (found.class_names, found.attribute_names) == (("blond", "dark"), ("female", "male"))
    if page == "docs/how-to/own-backbone.md":
        assert (clone / "results/trained/run0/hsfm/scores.parquet").is_file()
        assert "ERM: its own, as given" in (clone / "results/tables/main.md").read_text()
        assert not (clone / "results/trained/run0/erm/history.parquet").exists()


def printed_by(blocks: dict[int, str]) -> str:
    return "".join(blocks.values())


def check_layouts_of_text(folder: Path) -> None:
    """The page's readers of CivilComments and MultiNLI, on tables of a few rows."""
    n, rng = 90, np.random.default_rng(0)
    identities = ["male", "female", "LGBTQ", "christian", "muslim", "other_religions", "black", "white"]
    comments = pd.DataFrame({name: np.round(rng.random(n), 2) for name in ("toxicity", *identities)})
    comments = comments.assign(comment_text="a comment", split=["train", "val", "test"] * (n // 3))
    comments.to_csv(folder / "all_data_with_identities.csv")
    pairs = {"gold_label": rng.integers(0, 3, n), "sentence2_has_negation": rng.integers(0, 2, n)}
    pd.DataFrame({**pairs, "split": np.repeat([0, 1, 2], n // 3)}).to_csv(folder / "metadata_random.csv")
    lines = [
        "import numpy as np",
        (folder / "civilcomments.py").read_text(),
        (folder / "multinli.py").read_text(),
        f"x = np.random.default_rng(0).normal(size=({n}, 3))",
        "write_civilcomments('all_data_with_identities.csv', lambda texts: x[: len(texts)], 'civilcomments.npz')",
        "write_multinli('metadata_random.csv', x, 'multinli.npz')",
    ]
    run_python("\n".join(lines), folder)
    found = import_table(folder / "civilcomments.npz", "civilcomments")["train"]
    assert list(found.cells) == identities
    assert found.class_names == ("other", "toxic")
    male = [found.cells["male"][cell] for cell in found.attribute.tolist()]
    assert male == (comments["male"][::3] >= 0.5).astype(int).astype(str).tolist()
    found = import_table(folder / "multinli.npz", "multinli")["test"]
    assert found.class_names == ("contradiction", "entailment", "neutral")
    assert found.attribute.tolist() == (1 - pairs["sentence2_has_negation"][60:]).tolist(), "negation before plain"
