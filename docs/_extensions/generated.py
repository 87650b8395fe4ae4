"""Parts of pages that are written when the pages are built: `<!-- generated: NAME -->` stands in their place."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import configuration
import formats
import numpy as np
import yaml
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"^<!-- generated: (?P<name>[\w -]+) -->$", re.MULTILINE)


def write_configuration() -> str:
    return configuration.reference(read_schema(), read_config("config.yaml"))


def read_schema() -> dict:
    return json.loads((ROOT / "config" / "schema.json").read_text())


def read_config(name: str) -> dict:
    return yaml.safe_load((ROOT / "config" / name).read_text())


def write_help(command: str) -> str:
    """The text that `hsfm COMMAND --help` prints, eighty columns wide."""
    command = [sys.executable, "-m", "hsfm.deploy.cli", command, "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    return f"```text\n{done.stdout}```"


def write_methods() -> str:
    """HSFM's settings in the configurations that come with hsfm, a column per dataset."""
    settings, schema = {}, read_schema()
    for name in ("config.yaml", "paper.yaml"):
        settings |= read_config(name)["settings"]
    keys = ["support_per_class", "inner_steps", "inner_lr", "outer_lr", "support_steps", "epochs"]
    lines = [f"| | {' | '.join(settings)} |", f"| --- |{' ---: |' * len(settings)}"]
    values = {key: [_own(settings, name, "hsfm", schema).get(key) for name in settings] for key in keys}
    key = "hard_per_class"
    values[key] = [_own(settings, name, "hard_set", schema).get(key) for name in settings]
    lines += [f"| `{key}` | {' | '.join(map(_plain, row))} |" for key, row in values.items()]
    return "\n".join(lines)


def _plain(value: object) -> str:
    return np.format_float_positional(value, trim="0") if isinstance(value, float) else str(value)


def _own(settings: dict, dataset: str, section: str, schema: dict) -> dict:
    """A section of a dataset with what it inherits, and its defaults."""
    base = settings[dataset].get("base")
    inherited = _own(settings, base, section, schema) if base else configuration.defaults(schema, section)
    return {**inherited, **settings[dataset].get(section, {})}


WRITERS: dict[str, Callable[[], str]] = {
    "configuration": write_configuration,
    "file formats": formats.reference,
    **{f"help of {command}": partial(write_help, command) for command in ("compare", "export", "predict")},
    "settings of HSFM": write_methods,
}


def _fill(app: Sphinx, page: str, source: list[str]) -> None:
    def write(mark: re.Match) -> str:
        if mark["name"] not in WRITERS:
            raise ExtensionError(f"{page}: no generated part {mark['name']!r}; there are {', '.join(WRITERS)}")
        app.env.note_reread()  # what it is made from are no pages
        return WRITERS[mark["name"]]()

    source[0] = MARK.sub(write, source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
