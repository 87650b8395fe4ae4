"""The configuration: defaults, overlays and what datasets inherit as one, and every check that needs no job."""

import copy
import difflib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from snakemake.logging import logger

from hsfm_workflow import ROOT, SOURCES_IN_ARRAYS

STUDY_SECTIONS = {
    "sweep": ["sweep", "hsfm"],
    "ablations": ["hsfm"],
    "validation_bias": ["validation_bias", "hsfm", "dfr", "llr"],
}


def config_file() -> str:
    """config/config.yaml of this repository, as a path from the working directory."""
    return os.path.relpath(ROOT / "config" / "config.yaml")


def read_config(own: dict, files: Sequence[object] = ()) -> dict:
    """The whole checked configuration: config/config.yaml, changed by `own`, its datasets with what they inherit.

    own: of the command line and overlays, or of the `module` statement of another workflow. Ends the program with one
    line per mistake, which names `files`.
    """
    config, schema = merged(read_yaml("config.yaml"), own), read_yaml("schema.yaml")
    mistakes = list(inherit(config)) or list(gone(config))
    if not mistakes:
        validator = Draft202012Validator(schema)
        for error in list(validator.iter_errors(config)):
            read_scalar(config, error)
        errors = sorted(validator.iter_errors(config), key=lambda error: list(map(str, error.path)))
        mistakes = list(dict.fromkeys(line for error in errors for line in describe(error)))
    if not mistakes:
        mistakes = list(cross_check(config, may_be_null(schema)))
    for line in mistakes:
        logger.error(f"ERROR: configuration ({', '.join(dict.fromkeys(map(str, files)))}): {line}")
    if mistakes:
        sys.exit(1)  # not a WorkflowError, which adds a traceback through the Snakefile
    return config


def read_yaml(name: str) -> dict:
    """A file of config/, by libyaml where it is there, since Python's reader takes a quarter of a second."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((ROOT / "config" / name).read_text(), loader)  # both are safe


def gone(config: dict) -> Iterator[str]:
    """Values of earlier versions, with where they went."""
    for name, own in config["settings"].items():
        if isinstance(own, dict) and own.get("transform") == "model":
            model = str(own.get("backbone", {}).get("name", "open_clip:NAME")).removeprefix("open_clip:")
            said = f"model went; write what `python -m hsfm.models.clip {model}` prints, which is checked"
            yield f"settings/{name}/transform: {said}"


def check_writable(*folders: str) -> None:
    """Stop with one line where a folder that is there takes no files, before the first job finds out."""
    for folder in folders:
        if Path(folder).exists() and not os.access(folder, os.W_OK):
            logger.error(f"ERROR: {Path(folder).resolve()}: is read-only, but the workflow writes there")
            sys.exit(1)


def inherit(config: dict) -> Iterator[str]:
    """Give each dataset the settings of its `base` that it does not have itself.

    `images` are never inherited, and `ddb` only by a dataset that has such a section of its own: what it is to look for
    and to draw is another's object otherwise.

    Yields mistakes.
    """
    settings = config.get("settings")
    if not isinstance(settings, dict):
        return
    done = {name: own for name, own in settings.items() if not isinstance(own, dict) or "base" not in own}
    waiting = {name: own for name, own in settings.items() if name not in done}
    for name, own in waiting.items():
        if not isinstance(own["base"], str):
            yield f"settings/{name}/base: {own['base']!r} is not the name of a dataset"
            return
    while waiting:
        ready = [name for name, own in waiting.items() if own["base"] in done]
        if not ready:
            for name, own in waiting.items():
                unknown = own["base"] not in settings
                yield f"settings/{name}/base: " + (
                    f"unknown dataset {own['base']!r}; settings has {', '.join(settings)}"
                    if unknown
                    else f"{own['base']!r} is based on {name!r} in turn"
                )
            return
        for name in ready:
            own = waiting.pop(name)
            left = {"images"} if own.get("ddb") is not None else {"images", "ddb"}
            base = {key: value for key, value in done[own.pop("base")].items() if key not in left}
            done[name] = settings[name] = merged(base, own)


def merged(base: object, own: object) -> object:
    """`own`, and what only `base` has, all the way down."""
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return copy.deepcopy(own)
    both = {key: merged(base[key], own[key]) if key in base else copy.deepcopy(own[key]) for key in own}
    return {**copy.deepcopy({key: value for key, value in base.items() if key not in own}), **both}


def read_scalar(config: dict, error: ValidationError) -> None:
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


def describe(error: ValidationError) -> Iterator[str]:
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
    elif error.validator == "oneOf":  # null or a word, or what the second schema says
        other = error.validator_value[0].get("const", "null")
        parts = [part for part in error.context if part.schema_path[0] == 1]
        for part in parts:
            here = f", or {other}" if part.absolute_path == error.absolute_path else ""
            yield from (f"{line}{here}" for line in describe(part))
        if not parts:
            yield f"{prefix}{error.message}, or {other}"
    else:
        yield f"{prefix}{error.message}"


def may_be_null(schema: dict) -> list[str]:
    """The sections of a dataset that null leaves out."""
    sections = schema["$defs"]["dataset"]["properties"]
    return [name for name, said in sections.items() if {"type": "null"} in said.get("oneOf", [])]


def cross_check(config: dict, optional: Sequence[str]) -> Iterator[str]:
    """Checks beyond a schema. optional: sections that may be null."""
    if config["training_gpus"] > 1:
        if ":" in config["device"]:
            yield f"training_gpus: {config['training_gpus']}, but device: {config['device']} names one; set it to auto"
        if config["compute"]["compile"]:
            count = config["training_gpus"]
            yield f"training_gpus: {count} and compute/compile exclude one another; set compile to false"
    for dataset in config["datasets"]:
        if dataset not in config["settings"]:
            yield f"datasets: unknown dataset {dataset!r}; settings has {', '.join(config['settings'])}"
            continue
        settings, where = config["settings"][dataset], f"settings/{dataset}"
        for method in config["methods"]:
            if method not in settings and method != "erm":
                hint = f"; {method}: null leaves it out" if method in optional else ""
                yield f"{where}: missing key {method!r}, which methods asks for{hint}"
        if all(settings.get(method, "erm") is None for method in config["methods"]):
            left = ", ".join(f"{method}: null" for method in config["methods"])
            yield f"methods: {', '.join(config['methods'])} alone, which {dataset} leaves out ({left})"
        for study in config["studies"]:
            for section in STUDY_SECTIONS[study]:
                if section not in settings:
                    yield f"{where}: missing key {section!r}, which the study {study} asks for"
        if "afr" in config["methods"] and settings.get("afr") is not None:
            yield from check_afr(settings, where)
        if "dac" in config["methods"]:
            yield from check_dac(settings, where)
        if "ddb" in config["methods"] and settings.get("ddb") is not None:
            yield from check_ddb(settings, config, where)
        if settings.get("unclip") is not None:
            backbone = settings.get("backbone", {})
            if "images" not in settings or not backbone.get("name", "").startswith("open_clip:"):
                said = "decodes embeddings of CLIP; set backbone/name to open_clip:NAME, or unclip to null"
                yield f"{where}/unclip: {said}"
            elif backbone["train"] or not backbone["pretrained"]:
                said = "decodes CLIP's own embeddings; set backbone/pretrained to true and train to false"
                yield f"{where}/unclip: {said}"
            elif settings.get("edits") is None:
                yield f"{where}: missing key 'edits', which unclip shows"
        if "masks" in settings:
            yield from check_masks(settings, where)
        yield from not_finite(settings, where)
        yield from (check_network(settings, config, where) if "images" in settings else check_given(settings, where))
        if len(config["runs"]) > 1 and not is_trained(settings):
            yield f"runs: {dataset} is not trained here and has one run only, but runs lists {config['runs']}"


def is_trained(settings: dict) -> bool:
    backbone = settings.get("backbone")
    return "images" in settings and backbone is not None and backbone["train"] and backbone["checkpoint"] is None


def check_network(settings: dict, config: dict, where: str) -> Iterator[str]:
    """Of a dataset with images."""
    missing = [key for key in ("backbone", "transform") if key not in settings]
    if "batch_size" not in settings["embeddings"]:
        missing.append("embeddings/batch_size")
    if settings["images"]["source"] not in SOURCES_IN_ARRAYS:
        missing += [key for key in ("pixels", "decode_size") if key not in settings]
    if not missing:
        missing += [key for key in ("augmentation", "erm") if is_trained(settings) and key not in settings]
        with_head = settings["backbone"]["train"] or settings["backbone"]["checkpoint"] is not None
        missing += ["erm_head"] if not with_head and "erm_head" not in settings else []
    for key in missing:
        yield f"{where}: missing key {key!r}, which a dataset with images needs"
    if missing:
        return
    backbone = settings["backbone"]
    yield from check_architecture(backbone["name"], f"{where}/backbone/name")
    if backbone["pretrained"] and backbone["name"] == "small_resnet":
        yield f"{where}/backbone: small_resnet has no pretrained weights"
    chosen = [key for key in ("pretrained", "weights", "checkpoint") if backbone[key]]
    if len(chosen) > 1:
        yield f"{where}/backbone: {' and '.join(chosen)} exclude one another; set all but one to false or null"
    if not backbone["train"] and backbone["checkpoint"] is None and not (backbone["pretrained"] or backbone["weights"]):
        yield f"{where}/backbone: train is false, but there are neither pretrained weights nor a checkpoint"
    if settings["embeddings"].get("standardise") and (backbone["train"] or backbone["checkpoint"] is not None):
        said = "is for a frozen backbone without a head (backbone/train false, no checkpoint)"
        yield f"{where}/embeddings/standardise: {said}"
    table = settings["images"].get("metadata")
    if table is not None and not Path(table).is_file():
        yield f"{where}/images/metadata: no file {table}"
    for key in ("weights", "checkpoint"):
        value = backbone[key]
        if value is not None and not value.startswith("package:") and not Path(value).is_file():
            yield f"{where}/backbone/{key}: no file {value}"
    for key in ("train", "val", "test"):
        if key in settings["embeddings"]:
            yield f"{where}/embeddings/{key}: is for a dataset without images"
    in_cache = settings["images"]["source"] not in SOURCES_IN_ARRAYS and settings["pixels"] == "cached"
    if settings["transform"].get("interpolation") == "bicubic" and in_cache and settings["decode_size"] == "needed":
        said = "needed makes images smaller bilinearly, but transform/interpolation is bicubic; set it to original"
        yield f"{where}/decode_size: {said}"
    yield from check_attribute(settings, config, where)
    yield from check_training(settings, where) if is_trained(settings) else ()


def check_afr(settings: dict, where: str) -> Iterator[str]:
    """Sections that AFR needs."""
    if "images" in settings and "backbone" not in settings:
        return  # which is said of all methods
    if not is_trained(settings):
        yield f"{where}/afr: needs a network that is trained here, on a part of the images; set afr to null"
    elif "holdout" not in settings.get("erm", {}):
        yield f"{where}/erm: missing key 'holdout', which afr needs"


def check_dac(settings: dict, where: str) -> Iterator[str]:
    """Sections that DaC needs."""
    if "images" not in settings:
        yield f"{where}: has no images, which DaC needs; leave dac out of methods"
        return
    if "masks" not in settings:
        yield f"{where}: missing key 'masks', which dac needs"
    if "dac" in settings and settings["dac"]["batchnorm"] == "drift" and settings["embeddings"].get("standardise"):
        said = "drift moves the features, which embeddings/standardise cannot follow; set it to frozen"
        yield f"{where}/dac/batchnorm: {said}"


def check_ddb(settings: dict, config: dict, where: str) -> Iterator[str]:
    """Sections that DDB needs."""
    if "images" not in settings:
        yield f"{where}: has no images, which DDB needs; set ddb to null"
        return
    ddb = settings["ddb"]
    needed = {"diffusion": ["models", "token", "segment", "inpaint"], "cut_paste": ["cut_paste"]}[ddb["generator"]]
    for key in needed:
        if key not in ddb:
            yield f"{where}/ddb: missing key {key!r}, which the generator {ddb['generator']} needs"
    if "augmentation" not in settings:
        yield f"{where}: missing key 'augmentation', which ddb retrains with"
    classes = len(ddb["retrain"]["weights"])
    if settings["images"]["source"] != "metadata" and classes != 2:
        yield f"{where}/ddb/retrain/weights: {classes} numbers, but the dataset has 2 classes; give one for each"
    if ddb["generator"] == "diffusion" and "models" in ddb:
        yield from check_models(ddb["models"], config, f"{where}/ddb/models")
    if ddb["generator"] == "cut_paste" and "cut_paste" in ddb:
        if ddb["cut_paste"]["masks"] == "heat_map" and "masks" not in settings:
            yield f"{where}: missing key 'masks', which ddb/cut_paste needs"
        if ddb["cut_paste"]["masks"] == "dataset" and settings["images"]["source"] != "minibirds":
            yield f"{where}/ddb/cut_paste/masks: only minibirds knows its masks; set it to heat_map"


def check_models(models: dict, config: dict, where: str) -> Iterator[str]:
    """Models by name or folder."""
    if models["precision"] == "float16" and config["device"] == "cpu":
        yield f"{where}/precision: float16 was asked for, which the CPU has not; set it to auto"
    for key, model in models.items():
        if not isinstance(model, dict):
            continue
        folder = Path(model["name"])
        if folder.is_dir() and model["revision"] is not None:
            said = f"{model['revision']!r} is for the hub, but {folder} is a folder; set it to null"
            yield f"{where}/{key}/revision: {said}"
        if not folder.is_dir() and (
            folder.is_absolute() or model["name"].startswith((".", "~")) or len(folder.parts) > 2
        ):
            yield f"{where}/{key}/name: no folder {folder}"


def check_masks(settings: dict, where: str) -> Iterator[str]:
    """Masks out of heat maps, or that a dataset knows."""
    masks = settings["masks"]
    if masks["cuts"] != sorted(masks["cuts"]):
        yield f"{where}/masks/cuts: {masks['cuts']} does not rise"
    if masks["fallback"] not in masks["cuts"]:
        yield f"{where}/masks/fallback: {masks['fallback']} is not one of cuts, {masks['cuts']}"
    if masks["source"] == "dataset" and settings.get("images", {}).get("source") != "minibirds":
        yield f"{where}/masks/source: only minibirds knows its masks; set it to heat_map"


def check_architecture(name: str, where: str) -> Iterator[str]:
    """Names of torchvision's models, out of its source: importing it takes seconds. timm's are left to the job."""
    found = importlib.util.find_spec("torchvision")
    if name.startswith(("timm:", "open_clip:")) or found is None:
        return
    text = "".join(path.read_text() for path in Path(found.origin).parent.glob("models/*.py"))
    known = ["small_resnet", *re.findall(r"^@register_model\(\)\n(?:@.*\n)*def (\w+)\(", text, re.MULTILINE)]
    if len(known) > 1 and name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        hint = (
            f"did you mean {' or '.join(close)}?"
            if close
            else "allowed are torchvision's models, timm:NAME, open_clip:NAME, small_resnet"
        )
        yield f"{where}: unknown architecture {name!r}; {hint}"


def check_training(settings: dict, where: str) -> Iterator[str]:
    """Of a network that is trained here."""
    if settings["erm"]["nesterov"] and settings["erm"]["momentum"] == 0:
        yield f"{where}/erm: nesterov is true, which needs a momentum above 0"
    crop = settings["augmentation"]["random_resized_crop"]
    for key in ("scale", "ratio") if crop else ():
        if crop[key][0] > crop[key][1]:
            said = f"{list(crop[key])} is not the lowest, then the highest"
            yield f"{where}/augmentation/random_resized_crop/{key}: {said}"


def check_attribute(settings: dict, config: dict, where: str) -> Iterator[str]:
    """Of your own table without a column for the attribute: what needs one would fail only after the training."""
    if settings["images"]["source"] != "metadata" or settings["images"]["columns"].get("attribute") is not None:
        return
    needs = [method for method in config["methods"] if method == "dfr"]
    found = [choice for method in config["methods"] for choice in selections(settings.get(method), method)]
    needs += [choice for choice in found if choice.endswith("select_by: worst_group")]
    needs += [study for study in config["studies"] if study == "validation_bias"]
    for need in needs:
        yield f"{where}/images/columns: no attribute, which {need} needs on validation"


def selections(section: object, where: str) -> Iterator[str]:
    """Rules that pick heads and epochs, all the way down a method's section: `dac/select_by: worst_group`."""
    for key, value in section.items() if isinstance(section, dict) else ():
        if key == "select_by":
            yield f"{where}/{key}: {value}"
        yield from selections(value, f"{where}/{key}")


def check_given(settings: dict, where: str) -> Iterator[str]:
    """Of a dataset without images, whose embeddings are there already."""
    if settings["embeddings"].get("standardise"):
        yield f"{where}/embeddings/standardise: is for a frozen backbone on images, not for given embeddings"
    for split in ("train", "val", "test"):
        if split not in settings["embeddings"]:
            yield f"{where}: has no images, and embeddings lacks {split!r}"
            continue
        file = Path(settings["embeddings"][split])
        if not file.is_file():
            yield f"{where}/embeddings/{split}: no file {file}"
        elif file.suffix not in (".npz", ".parquet"):
            yield f"{where}/embeddings/{split}: {file} is neither .npz nor .parquet"
        elif Path("results").resolve() in file.resolve().parents:
            yield f"{where}/embeddings/{split}: {file} lies in results, whose files the workflow may replace"
    if "erm_head" not in settings:
        yield f"{where}: missing key 'erm_head', which given embeddings need"


def not_finite(value: object, where: str) -> Iterator[str]:
    """NaN and infinity, which a schema's bounds let through."""
    if isinstance(value, (dict, list)):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from not_finite(part, f"{where}/{key}")
    elif isinstance(value, float) and not isfinite(value):
        yield f"{where}: {value} is not a finite number"


def in_order(value: object) -> object:
    """The same settings with sorted keys: Snakemake compares params as text, and their order means nothing."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    return value
