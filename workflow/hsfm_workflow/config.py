"""The configuration: defaults, overlays and what datasets inherit as one, and every check that needs no job."""

import hashlib
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import yaml
from snakemake.logging import logger

from hsfm.core.files import write_atomically
from hsfm.core.nested import as_meant, merged
from hsfm.heads import known_methods as methods
from hsfm_workflow import ROOT, SOURCES
from hsfm_workflow.checks import STUDY_SECTIONS, cross_check
from hsfm_workflow.code import hash_of

KEPT = Path(".snakemake", "hsfm", "configuration.json")  # the one that was validated last
MOST_THREADS = 8  # of `training_threads: auto`; more wait for one another
CODE = [f"workflow/hsfm_workflow/{name}.py" for name in ("config", "checks", "schema")] + ["hsfm/core/mistakes.py"]

GONE = {  # of earlier versions, by the words of its error
    "/transform: expected a section, got model": "write what `python -m hsfm.models.clip NAME` prints",
    "unknown key 'max_iter'": "it went: every solver has 1000 iterations, and the log says where that is too few",
    "/retrain: unknown key 'select_by'": "it is ddb/select_by now",
}


def config_file() -> str:
    """config/config.yaml of this repository, as a path from the working directory."""
    return os.path.relpath(ROOT / "config/config.yaml")


def read_config(own: dict, files: Sequence[object] = ()) -> dict:
    """The whole checked configuration: config/config.yaml, changed by `own`, its datasets with what they inherit.

    own: of the command line and overlays, or of the `module` statement of another workflow. Returns plain values with
    all defaults: `methods` are the names of the rows, `rows` what was asked for, `variants` has the method of each but
    erm, and a dataset has a section for each of them, or None where it leaves the method out. Ends the program with one
    line per mistake, which names `files`.
    """
    try:
        methods.found()
    except ValueError as error:  # a file in hsfm/methods that is no method
        logger.error(f"ERROR: {error}")
        sys.exit(1)
    # by libyaml where it is there, since Python's reader takes a quarter of a second; both are safe
    defaults = yaml.load((ROOT / "config/config.yaml").read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    raw = merged(as_meant(defaults), as_meant(own))
    mistakes = list(inherit(raw))
    if not mistakes:
        config, mistakes = validated(raw)
    if not mistakes:
        if config["training_threads"] == "auto":
            from joblib import cpu_count  # which knows the limits of containers, and takes a while to import

            config["training_threads"] = min(cpu_count(), MOST_THREADS)
        mistakes = list(cross_check(config))
    for line in mistakes:
        line += "".join(f" ({said})" for words, said in GONE.items() if words in line)
        logger.error(f"ERROR: configuration ({', '.join(dict.fromkeys(map(str, files)))}): {line}")
    if mistakes:
        sys.exit(1)  # not a WorkflowError, which adds a traceback through the Snakefile
    return config


def validated(raw: dict) -> tuple[dict, list[str]]:
    """A whole configuration with all defaults, or its mistakes; kept for the next call, since the settings classes
    take seconds to import."""
    sources = (f"hsfm/data/sources/{name}.py" for name in SOURCES)
    code = hash_of(*CODE, *(method.path for method in methods.found().values()), *sources)
    key = hashlib.sha256(json.dumps([code, raw], default=str).encode()).hexdigest()
    with suppress(OSError, ValueError):  # absent or damaged
        kept = json.loads(KEPT.read_text())
        if kept["key"] == key:
            return kept["config"], []
    from hsfm_workflow import schema

    config, mistakes = schema.validated(raw, STUDY_SECTIONS)
    if not mistakes:
        with suppress(OSError), write_atomically(KEPT) as temporary:  # read-only is another check's matter
            temporary.write_text(json.dumps({"key": key, "config": config}))
    return config, mistakes


def check_writable(*folders: str) -> None:
    """Stop with one line where a folder that is there takes no files, before the first job finds out."""
    for folder in folders:
        if Path(folder).exists() and not os.access(folder, os.W_OK):
            logger.error(f"ERROR: {Path(folder).resolve()}: is read-only, but the workflow writes there")
            sys.exit(1)


def inherit(config: dict) -> Iterator[str]:
    """Give each dataset the settings of its `base` that it does not have itself; yields mistakes.

    `images` are never inherited, and `ddb`, which names the objects, only beside a section of the dataset's own.
    """
    settings = config.get("settings")
    for name in settings if isinstance(settings, dict) else ():
        try:
            settings[name] = _inherited(settings, name)
        except ValueError as error:
            yield f"settings/{name}/base: {error}"


def _inherited(settings: dict, name: str, *above: str) -> object:
    """A dataset's settings with those of its base. above: datasets that are based on it."""
    own = settings[name]
    if not isinstance(own, dict) or "base" not in own:
        return own
    base = own["base"]
    known = [each for each, section in settings.items() if isinstance(section, dict)]
    if base not in known:
        raise ValueError(f"unknown dataset {base!r}; settings has {', '.join(known)}")
    if base in (name, *above):
        raise ValueError(f"{base!r} is based on itself")
    left = ["images", *(["ddb"] if own.get("ddb") is None else [])]
    taken = {key: value for key, value in _inherited(settings, base, name, *above).items() if key not in left}
    return merged(taken, {key: value for key, value in own.items() if key != "base"})


def in_order(value: object) -> object:
    """The same settings with sorted keys: Snakemake compares params as text, and their order means nothing."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    return value
