"""Checks of the configuration: everything that can be known before a job runs."""

import difflib
import sys
from math import isfinite

import yaml
from jsonschema import Draft202012Validator
from snakemake.logging import logger

STUDY_SECTIONS = {
    "sweep": ["sweep", "hsfm"],
    "ablations": ["hsfm"],
    "validation_bias": ["validation_bias", "hsfm", "dfr", "llr"],
}


def check_config(config):
    """Stop with one line per mistake before any rule is read."""
    validator = Draft202012Validator(yaml.safe_load(Path(workflow.basedir, "config", "schema.yaml").read_text()))
    for error in list(validator.iter_errors(config)):
        read_scalar(config, error)
    errors = sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.path)))
    mistakes = list(dict.fromkeys(line for error in errors for line in describe(error)))
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
    for part in error.context or []:  # of oneOf
        read_scalar(config, part)
    text = error.instance
    if not isinstance(text, str) or error.validator not in ("type", "oneOf"):
        return
    words = {"null": None, "true": True, "yes": True, "false": False, "no": False}
    value = words.get(text.lower(), text)
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
        missing = [repr(key) for key in error.validator_value if key not in error.instance]
        yield f"{prefix}missing key{'s' if len(missing) > 1 else ''} {', '.join(missing)}"
    elif error.validator == "enum":
        yield f"{prefix}unknown value {error.instance!r}; allowed are {', '.join(map(str, error.validator_value))}"
    elif error.validator == "oneOf":  # null, or what the second schema says
        lines = [line for part in error.context if part.schema_path[0] == 1 for line in describe(part)]
        yield from (f"{line}, or null" for line in lines or [f"{prefix}{error.message}"])
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
        for study in config["studies"]:
            for section in STUDY_SECTIONS[study]:
                if section not in settings:
                    yield f"settings/{dataset}: missing key {section!r}, which the study {study} asks for"
        yield from not_finite(settings, f"settings/{dataset}")
        if settings["erm"]["nesterov"] and settings["erm"]["momentum"] == 0:
            yield f"settings/{dataset}/erm: nesterov is true, which needs a momentum above 0"
        crop = settings["augmentation"]["random_resized_crop"]
        for key in ("scale", "ratio") if crop else ():
            if crop[key][0] > crop[key][1]:
                where = f"settings/{dataset}/augmentation/random_resized_crop/{key}"
                yield f"{where}: {list(crop[key])} is not the lowest, then the highest"
        if settings["backbone"]["pretrained"] and settings["backbone"]["name"] == "small_resnet":
            yield f"settings/{dataset}/backbone: small_resnet has no pretrained weights"


def not_finite(value, where):
    """NaN and infinity, which a schema's bounds let through."""
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from not_finite(part, f"{where}/{key}")
    elif isinstance(value, float) and not isfinite(value):
        yield f"{where}: {value} is not a finite number"


def in_order(value):
    """The same settings with sorted keys: Snakemake compares params as text, and their order means nothing."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    return value
