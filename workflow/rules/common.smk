import ast
import difflib
import os
import sys

import yaml
from jsonschema import Draft202012Validator
from snakemake.logging import logger

from hsfm.device import accelerator_present

# OpenMP threads that spin while they wait for one another lose most of their speed on a busy machine. Set here, since
# the library reads it when torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

ROOT = Path(workflow.basedir)


# Configuration ----------------------------------------------------------------------------------------------------------


def check_config(config):
    """Stop with one line per mistake before any rule is read."""
    validator = Draft202012Validator(yaml.safe_load((ROOT / "config" / "schema.yaml").read_text()))
    for error in list(validator.iter_errors(config)):
        read_scalar(config, error)
    errors = sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.path)))
    mistakes = [line for error in errors for line in describe(error)]
    if not mistakes:
        mistakes = list(cross_check(config))
    if mistakes:
        files = ", ".join(dict.fromkeys(str(f) for f in [*workflow.configfiles, *workflow.overwrite_configfiles]))
        for line in mistakes:
            logger.error(f"ERROR: configuration ({files}): {line}")
        # not a WorkflowError, which adds a traceback through the Snakefile
        sys.exit(1)


def read_scalar(config, error):
    """Read a text as the number, truth value or null that the schema expects in its place.

    Snakemake hands over `--config 'runs=[0, 1]'` as ['0', '1'], and YAML reads 5e-4 as a text.
    """
    text = error.instance
    if not isinstance(text, str) or error.validator not in ("type", "oneOf"):
        return
    words = {"null": None, "true": True, "false": False}
    value = words.get(text, text)
    for number in (float, int):  # an integer stays one
        try:
            value = number(text)
        except ValueError:
            continue
    *parents, last = error.absolute_path
    for key in parents:
        config = config[key]
    config[last] = value


def describe(error):
    """A schema error in words: where, what came, what is allowed."""
    where = "/".join(map(str, error.absolute_path))
    prefix = f"{where}: " if where else ""
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = list(error.schema.get("properties", {}))
        for key in error.instance:
            if key not in known:
                close = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(known)}"
                yield f"{prefix}unknown key {key!r}; {hint}"
    elif error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance:
                yield f"{prefix}missing key {key!r}"
    elif error.validator == "enum":
        yield f"{prefix}unknown value {error.instance!r}; allowed are {', '.join(map(str, error.validator_value))}"
    elif error.validator == "oneOf":  # null, or what the second schema says
        for part in error.context:
            if part.schema_path[0] == 1:
                yield from (f"{line}, or null" for line in describe(part))
    else:
        yield f"{prefix}{error.message}"


def cross_check(config):
    """What a schema cannot say."""
    for dataset in config["datasets"]:
        if dataset not in config["settings"]:
            yield f"datasets: unknown dataset {dataset!r}; settings has {', '.join(config['settings'])}"
            continue
        settings = config["settings"][dataset]
        for section in config["methods"]:
            if section not in settings and section != "erm":
                yield f"settings/{dataset}: missing key {section!r}, which methods asks for"
        if settings["backbone"]["pretrained"] and settings["backbone"]["name"] == "small_resnet":
            yield f"settings/{dataset}/backbone: small_resnet has no pretrained weights"


def in_order(value):
    """The same settings with sorted keys: Snakemake compares params as text, and their order means nothing."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    return value


def setting(section):
    """The settings of one stage for the dataset of a job."""
    return lookup(dpath=f"settings/{{dataset}}/{section}", within=SETTINGS)


# What a script depends on ----------------------------------------------------------------------------------------------


def uses(script):
    """The script and every module of hsfm that it imports, directly or not.

    As inputs they make jobs run again when their code changes, since Snakemake compares small files by checksum.
    hsfm/__init__.py only names where things are and is left out, or one more public name would make all stale.
    """
    found, waiting = [], [ROOT / script]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.append(path)
        for name in imported(path):
            candidate = ROOT.joinpath(*name.split(".")).with_suffix(".py")
            if candidate.exists():
                waiting.append(candidate)
    return sorted(os.path.relpath(path) for path in found)


def imported(path):
    """Dotted names under hsfm that a file imports."""
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        else:
            continue
        yield from (name for name in names if name and name.startswith("hsfm."))


# Resources -------------------------------------------------------------------------------------------------------------


def gpus(wildcards):
    """One GPU, unless jobs run on this machine and it is not to be used or has none.

    Without that exception such rules would run one at a time for nothing. A login node without a GPU still asks for
    one, since its jobs run elsewhere.
    """
    if config["device"] == "cpu":
        return 0
    if config["device"] == "auto" and workflow.local_exec and not accelerator_present():
        return 0
    return 1


# Names -----------------------------------------------------------------------------------------------------------------

DATASETS = config["datasets"]
RUNS = config["runs"]
METHODS = config["methods"]
SETTINGS = {"settings": in_order(config["settings"])}
SPLITS = ["train", "val", "test"]
TABLES = expand("results/tables/{table}.{suffix}", table=["main", "metrics", "groups"], suffix=["csv", "md", "tex"])
FIGURES = ["examples", "training", "groups"] + (["hard_set"] if "hsfm" in METHODS else [])


wildcard_constraints:
    dataset="[a-z][a-z0-9_]*",
    run="[0-9]+",
    method="[a-z][a-z0-9_]*",
