"""The configuration: defaults, overlays and what datasets inherit as one, and every check that needs no job."""

import copy
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
from hsfm.heads import known_methods as methods
from hsfm_workflow import ROOT, SOURCES, SOURCES_IN_ARRAYS, SPLITS
from hsfm_workflow.code import hash_of

KEPT = Path(".snakemake", "hsfm", "configuration.json")  # the one that was validated last
CODE = [f"workflow/hsfm_workflow/{name}.py" for name in ("config", "schema", "mistakes")]
STUDY_SECTIONS = {
    "sweep": ["sweep", "hsfm"],
    "ablations": ["hsfm"],
    "validation_bias": ["validation_bias", "hsfm", "dfr", "llr"],
}
SPLITS_OF = {"val": "validation", "train": "train", "both": "train and validation"}  # whose group labels a method reads
GONE = {  # keys, or their values, of earlier versions
    "settings/*/transform=model": "model went; write what `python -m hsfm.models.clip MODEL` prints, which is checked",
    "settings/*/embeddings/standardise": "is called standardize now",
    "settings/*/edits/neighbours": "is called neighbors now",
    "settings/*/erm_head/max_iter": "went: L-BFGS has 1000 iterations, and the log says where that is too few",
    "settings/*/dfr/max_iter": "went: liblinear has 1000 iterations",
    "settings/*/llr/max_iter": "went: liblinear has 1000 iterations",
    "settings/*/erm/schedule=cosine": "cosine went; one_cycle ends near 0 as well",
    "settings/*/ddb/retrain/select_by": "went to ddb/select_by, or to select_by of all methods",
}


def config_file() -> str:
    """config/config.yaml of this repository, as a path from the working directory."""
    return os.path.relpath(ROOT / "config" / "config.yaml")


def read_config(own: dict, files: Sequence[object] = ()) -> dict:
    """The whole checked configuration: config/config.yaml, changed by `own`, its datasets with what they inherit.

    own: of the command line and overlays, or of the `module` statement of another workflow. Returns plain values with
    all defaults: `methods` are the names of the rows, `rows` what was asked for, `variants` has the method of each but
    erm, and a dataset has a section for each of them, or None where it leaves the method out. Ends the program with one
    line per mistake, which names `files`.
    """
    check_methods()
    raw = _with_null(merged(read_yaml("config.yaml"), own))
    mistakes = list(inherit(raw)) or list(gone(raw))
    if not mistakes:
        config, mistakes = validated(raw)
    if not mistakes:
        groups = config.pop("groups")
        mistakes = list(cross_check(config, groups))
    for line in mistakes:
        logger.error(f"ERROR: configuration ({', '.join(dict.fromkeys(map(str, files)))}): {line}")
    if mistakes:
        sys.exit(1)  # not a WorkflowError, which adds a traceback through the Snakefile
    return config


def check_methods() -> None:
    """Stop with one line where a file in hsfm/methods is no method."""
    try:
        methods.found()
    except ValueError as error:
        logger.error(f"ERROR: {error}")
        sys.exit(1)


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


def _with_null(values: object) -> object:
    """Values with null for the text of that name, which `--config afr=null` hands over."""
    if isinstance(values, dict):
        return {key: _with_null(value) for key, value in values.items()}
    if isinstance(values, list):
        return [_with_null(value) for value in values]
    return None if values == "null" else values


def read_yaml(name: str) -> dict:
    """A file of config/, by libyaml where it is there, since Python's reader takes a quarter of a second."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((ROOT / "config" / name).read_text(), loader)  # both are safe


def gone(config: dict) -> Iterator[str]:
    """Keys and values of earlier versions, with where they went."""
    for pattern, said in GONE.items():
        path, _, former = pattern.partition("=")
        for where, value in matches(config, path.split("/")):
            if not former or value == former:
                backbone = config["settings"][where[1]].get("backbone")
                name = backbone.get("name") if isinstance(backbone, dict) else "NAME"
                yield f"{'/'.join(where)}: {said.replace('MODEL', str(name).removeprefix('open_clip:'))}"


def matches(values: object, pattern: Sequence[str], where: tuple[str, ...] = ()) -> Iterator[tuple[tuple, object]]:
    """Path and value of what lies at `pattern`, whose * stands for any key."""
    if not pattern:
        yield where, values
    elif isinstance(values, dict):
        for key in values if pattern[0] == "*" else values.keys() & {pattern[0]}:
            yield from matches(values[key], pattern[1:], (*where, str(key)))


def check_writable(*folders: str) -> None:
    """Stop with one line where a folder that is there takes no files, before the first job finds out."""
    for folder in folders:
        if Path(folder).exists() and not os.access(folder, os.W_OK):
            logger.error(f"ERROR: {Path(folder).resolve()}: is read-only, but the workflow writes there")
            sys.exit(1)


def inherit(config: dict) -> Iterator[str]:
    """Give each dataset the settings of its `base` that it does not have itself; yields mistakes.

    `images` are never inherited, and `ddb` only by a dataset that has such a section of its own: what it is to look for
    and to draw is another's object otherwise.
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
    if base not in list(settings):
        raise ValueError(f"unknown dataset {base!r}; settings has {', '.join(settings)}")
    if base in (name, *above):
        raise ValueError(f"{base!r} is based on itself")
    left = ["images", *(["ddb"] if own.get("ddb") is None else [])]
    taken = {key: value for key, value in _inherited(settings, base, name, *above).items() if key not in left}
    return merged(taken, {key: value for key, value in own.items() if key != "base"})


def merged(base: object, own: object) -> object:
    """`own`, and what only `base` has, all the way down."""
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return copy.deepcopy(own)
    both = {key: merged(base[key], own[key]) if key in base else copy.deepcopy(own[key]) for key in own}
    return {**copy.deepcopy({key: value for key, value in base.items() if key not in own}), **both}


def cross_check(config: dict, groups: dict[str, dict[str, str]]) -> Iterator[str]:
    """Checks beyond a schema. groups: by dataset and row, which group labels it is trained on."""
    yield from check_gpus(config)
    for dataset in config["datasets"]:
        if dataset not in config["settings"]:
            yield f"datasets: unknown dataset {dataset!r}; settings has {', '.join(config['settings'])}"
            continue
        settings, where = config["settings"][dataset], f"settings/{dataset}"
        yield from check_rows(settings, config, where)
        yield from check_studies(settings, config, where)
        if settings.get("unclip") is not None:
            yield from check_unclip(settings, where)
        if "images" in settings:
            yield from check_network(settings, config, where)
        else:
            yield from check_given(settings, where)
        yield from check_attribute(settings, config, groups[dataset], where)
        if settings["masks"]["source"] == "dataset" and settings.get("images", {}).get("source") != "minibirds":
            yield f"{where}/masks/source: only minibirds knows its masks; set it to heat_map"
        if len(config["runs"]) > 1 and not is_trained(settings):
            yield f"runs: {dataset} is not trained here and has one run only, but runs lists {config['runs']}"


def check_gpus(config: dict) -> Iterator[str]:
    """Several GPUs of one training."""
    count = config["training_gpus"]
    if count > 1 and ":" in config["device"]:
        yield f"training_gpus: {count}, but device: {config['device']} names one; set it to auto"
    if count > 1 and config["compute"]["compile"]:
        yield f"training_gpus: {count} and compute/compile exclude one another; set compile to false"


def check_rows(settings: dict, config: dict, where: str) -> Iterator[str]:
    """What the methods of a dataset need of its other sections."""
    rows = {name: config["variants"].get(name) for name in config["methods"]}
    if all(method is not None and settings[name] is None for name, method in rows.items()):
        left = ", ".join(f"{method}: null" for method in dict.fromkeys(rows.values()))
        yield f"methods: {', '.join(rows)} alone, which {where.split('/')[1]} leaves out ({left})"
    used = dict.fromkeys(method for name, method in rows.items() if method is not None and settings[name] is not None)
    for method in (methods.found()[name] for name in used):
        if method.images and "images" not in settings:
            yield f"{where}: has no images, which {method.label} needs; set {method.name} to null"
        elif method.name == "afr":
            yield from check_afr(settings, where)
        elif method.name == "dac":
            yield from check_dac(settings, where)
        elif method.name == "ddb":
            yield from check_ddb(settings, config, where)


def check_studies(settings: dict, config: dict, where: str) -> Iterator[str]:
    """Sections that studies need."""
    for study in config["studies"]:
        for section in STUDY_SECTIONS[study]:
            if settings.get(section) is None:
                yield f"{where}/{section}: missing or null, but the study {study} asks for it"


def check_unclip(settings: dict, where: str) -> Iterator[str]:
    """Sections that pictures by unCLIP need."""
    backbone = settings.get("backbone", {})
    if "images" not in settings or not backbone.get("name", "").startswith("open_clip:"):
        said = "decodes embeddings of CLIP; set backbone/name to open_clip:NAME, or unclip to null"
        yield f"{where}/unclip: {said}"
    elif backbone["train"] or not backbone["pretrained"]:
        said = "decodes CLIP's own embeddings; set backbone/pretrained to true and train to false"
        yield f"{where}/unclip: {said}"
    elif settings.get("edits") is None:
        yield f"{where}: missing key 'edits', which unclip shows"


def is_trained(settings: dict) -> bool:
    backbone = settings.get("backbone")
    return "images" in settings and backbone is not None and backbone["train"] and backbone["checkpoint"] is None


def check_network(settings: dict, config: dict, where: str) -> Iterator[str]:
    """Of a dataset with images."""
    missing = list(missing_for_images(settings))
    for key in missing:
        yield f"{where}: missing key {key!r}, which a dataset with images needs"
    if missing:
        return
    backbone = settings["backbone"]
    if settings["embeddings"]["standardize"] and (backbone["train"] or backbone["checkpoint"] is not None):
        said = "is for a frozen backbone without a head (backbone/train false, no checkpoint)"
        yield f"{where}/embeddings/standardize: {said}"
    table = settings["images"].get("metadata")
    if table is not None and not Path(table).is_file():
        yield f"{where}/images/metadata: no file {table}"
    for key in ("weights", "checkpoint"):
        value = backbone[key]
        if value is not None and not value.startswith("package:") and not Path(value).is_file():
            yield f"{where}/backbone/{key}: no file {value}"
    yield from (
        f"{where}/embeddings/{split}: is for a dataset without images"
        for split in SPLITS
        if settings["embeddings"][split] is not None
    )
    in_cache = settings["images"]["source"] not in SOURCES_IN_ARRAYS and settings["pixels"] == "cached"
    if settings["transform"]["interpolation"] == "bicubic" and in_cache and settings["decode_size"] == "needed":
        said = "needed makes images smaller bilinearly, but transform/interpolation is bicubic; set it to original"
        yield f"{where}/decode_size: {said}"


def missing_for_images(settings: dict) -> Iterator[str]:
    """Keys that a dataset with images needs and lacks."""
    yield from (key for key in ("backbone", "transform") if key not in settings)
    if settings["embeddings"]["batch_size"] is None:
        yield "embeddings/batch_size"
    if settings["images"]["source"] not in SOURCES_IN_ARRAYS:
        yield from (key for key in ("pixels", "decode_size") if key not in settings)
    if is_trained(settings):
        yield from (key for key in ("augmentation", "erm") if key not in settings)


def check_afr(settings: dict, where: str) -> Iterator[str]:
    """Sections that AFR needs."""
    if "images" in settings and "backbone" not in settings:
        return  # which is said of all methods
    if not is_trained(settings):
        yield f"{where}/afr: needs a network that is trained here, on a part of the images; set afr to null"
    elif "erm" in settings and settings["erm"]["holdout"] is None:
        yield f"{where}/erm: missing key 'holdout', which afr needs"


def check_dac(settings: dict, where: str) -> Iterator[str]:
    """Sections that DaC needs."""
    if settings["dac"]["batchnorm"] == "drift" and settings["embeddings"]["standardize"]:
        said = "drift moves the features, which embeddings/standardize cannot follow; set it to frozen"
        yield f"{where}/dac/batchnorm: {said}"


def check_ddb(settings: dict, config: dict, where: str) -> Iterator[str]:
    """Sections that DDB needs."""
    ddb = settings["ddb"]
    if "augmentation" not in settings:
        yield f"{where}: missing key 'augmentation', which ddb retrains with"
    classes = len(ddb["retrain"]["weights"])
    if settings["images"]["source"] != "metadata" and classes != 2:
        yield f"{where}/ddb/retrain/weights: {classes} numbers, but the dataset has 2 classes; give one for each"
    if ddb["generator"] == "diffusion":
        yield from check_models(ddb["models"], config, f"{where}/ddb/models")
    elif ddb["cut_paste"]["masks"] == "dataset" and settings["images"]["source"] != "minibirds":
        yield f"{where}/ddb/cut_paste/masks: only minibirds knows its masks; set it to heat_map"


def check_models(models: dict, config: dict, where: str) -> Iterator[str]:
    """Models by name or folder."""
    if models["precision"] == "float16" and config["device"] == "cpu":
        yield f"{where}/precision: float16 was asked for, which the CPU has not; set it to auto"
    for key, name in ((key, model["name"]) for key, model in models.items() if isinstance(model, dict)):
        local = name.startswith(("/", ".", "~")) or len(Path(name).parts) > 2
        if local and not Path(name).is_dir():
            yield f"{where}/{key}/name: no folder {name}"


def check_attribute(settings: dict, config: dict, groups: dict[str, str], where: str) -> Iterator[str]:
    """Of your own table without a column for the attribute: what needs one would fail only after the training."""
    images = settings.get("images", {})
    if images.get("source") != "metadata" or images["columns"]["attribute"] is not None:
        return
    for name in (name for name in config["variants"] if settings[name] is not None):
        if groups[name] != "none":
            yield f"{where}/images/columns: no attribute, which {name} needs on {SPLITS_OF[groups[name]]}"
        elif settings[name]["select_by"] == "worst_group":
            yield f"{where}/images/columns: no attribute, which {name}/select_by: worst_group needs on validation"
    if "validation_bias" in config["studies"]:
        yield f"{where}/images/columns: no attribute, which validation_bias needs on validation"


def check_given(settings: dict, where: str) -> Iterator[str]:
    """Of a dataset without images, whose embeddings are there already."""
    if settings["embeddings"]["standardize"]:
        yield f"{where}/embeddings/standardize: is for a frozen backbone on images, not for given embeddings"
    for split in SPLITS:
        file = settings["embeddings"][split]
        if file is None:
            yield f"{where}: has no images, and embeddings lacks {split!r}"
        elif not Path(file).is_file():
            yield f"{where}/embeddings/{split}: no file {file}"
        elif Path("results").resolve() in Path(file).resolve().parents:
            yield f"{where}/embeddings/{split}: {file} lies in results, whose files the workflow may replace"


def in_order(value: object) -> object:
    """The same settings with sorted keys: Snakemake compares params as text, and their order means nothing."""
    if isinstance(value, dict):
        return {key: in_order(value[key]) for key in sorted(value)}
    return value
