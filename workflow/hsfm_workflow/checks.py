"""Checks of a configuration beyond its classes: what sections, methods and files need of one another."""

from collections.abc import Iterator
from pathlib import Path

from snakemake.io import contains_wildcard

from hsfm.heads import known_methods as methods
from hsfm_workflow import SOURCES_IN_ARRAYS, SPLITS
from hsfm_workflow.files import downloads

STUDY_SECTIONS = {
    "sweep": ["sweep", "hsfm"],
    "ablations": ["hsfm"],
    "selection": [],
    "validation_bias": ["validation_bias", "dfr"],
}
SPLITS_OF = {"val": "validation", "train": "train", "both": "train and validation"}  # whose group labels a method reads
NO_MASKS = "only minibirds knows its masks; set it to heat_map"


def cross_check(config: dict) -> Iterator[str]:
    """One line per mistake in a configuration as `schema.validated` returns it."""
    if config["training_gpus"] > 1 and ":" in config["device"]:
        yield f"training_gpus: {config['training_gpus']}, but device: {config['device']} names one; set it to auto"
    if config["training_gpus"] > 1 and config["compute"]["compile"]:
        yield f"training_gpus: {config['training_gpus']} and compute/compile exclude one another; set compile to false"
    for dataset in config["datasets"]:
        settings = config["settings"].get(dataset)
        if settings is None:
            yield f"datasets: unknown dataset {dataset!r}; settings has {', '.join(config['settings'])}"
            continue
        if len(config["runs"]) > 1 and not is_trained(settings):
            yield f"runs: {dataset} is not trained here and has one run only, but runs lists {config['runs']}"
        for where, said in _of_dataset(settings, config, config["labels"][dataset]):
            yield f"settings/{dataset}{'/' * bool(where)}{where}: {said}"


def is_trained(settings: dict) -> bool:
    backbone = settings.get("backbone")
    return "images" in settings and backbone is not None and backbone["train"] and backbone["checkpoint"] is None


def _of_dataset(settings: dict, config: dict, labels: dict[str, dict]) -> Iterator[tuple[str, str]]:
    """Place and words of each mistake in a dataset's settings."""
    yield from _of_network(settings) if "images" in settings else _of_embeddings(settings)
    used = {row: methods.found()[name] for row, name in config["variants"].items() if settings[row] is not None}
    for row, method in used.items():
        if method.features_under(settings[row]) == "own":
            yield from _of_own_network(settings, row, method)
    for method in dict.fromkeys(used.values()):
        if method.images and "images" not in settings:
            yield "", f"has no images, which {method.label} needs; set {method.name} to null"
        elif method.name in OF_METHODS:
            yield from OF_METHODS[method.name](settings, config)
    for study in config["studies"]:
        lacking = [section for section in STUDY_SECTIONS[study] if settings.get(section) is None]
        yield from ((section, f"missing or null, but the study {study} asks for it") for section in lacking)
    if settings.get("unclip") is not None:
        yield from _of_unclip(settings)
    if settings["masks"]["source"] == "dataset" and settings.get("images", {}).get("source") != "minibirds":
        yield "masks/source", NO_MASKS
    images = settings.get("images", {})
    if images.get("source") == "metadata" and not (images["columns"]["attribute"] or images["columns"]["attributes"]):
        need = list(_with_attributes(settings, config, labels))
        yield from (("images/columns", f"no attribute, which {what}") for what in need)


def _of_network(settings: dict) -> Iterator[tuple[str, str]]:
    """Of a dataset with images."""
    images, embeddings = settings["images"], settings["embeddings"]
    in_files = images["source"] not in SOURCES_IN_ARRAYS
    needed = ["backbone", "transform", *(["pixels", "decode_size"] if in_files else [])]
    needed += ["augmentation", "erm"] if is_trained(settings) else []
    missing = [key for key in needed if key not in settings]
    missing += ["embeddings/batch_size"] if embeddings["batch_size"] is None else []
    yield from (("", f"missing key {key!r}, which a dataset with images needs") for key in missing)
    if missing:
        return
    backbone = settings["backbone"]
    if embeddings["standardize"] and (backbone["train"] or backbone["checkpoint"] is not None):
        yield "embeddings/standardize", "is for a frozen backbone without a head (backbone/train false, no checkpoint)"
    named = {f"backbone/{key}": backbone[key] for key in ("weights", "checkpoint")}
    for where, file in {"images/metadata": images.get("metadata"), **named}.items():
        if file is not None and not file.startswith("package:") and not Path(file).is_file():
            yield where, f"no file {file}"
    folder = images.get("folder", "")
    if contains_wildcard(folder) and downloads({"": {"images": images}}):
        yield "images/folder", f"{folder} has braces, and nothing can be downloaded into it; put the dataset there"
    shrunk = in_files and settings["pixels"] == "cached" and settings["decode_size"] == "needed"
    if shrunk and settings["transform"]["interpolation"] == "bicubic":
        said = "needed makes images smaller bilinearly, but transform/interpolation is bicubic; set it to original"
        yield "decode_size", said


def _of_embeddings(settings: dict) -> Iterator[tuple[str, str]]:
    """Of a dataset without images, whose embeddings are there already."""
    if settings["embeddings"]["standardize"]:
        yield "embeddings/standardize", "is for a frozen backbone on images, not for given embeddings"
    for split in SPLITS:
        file = settings["embeddings"][split]
        if file is None:
            yield "", f"has no images, and embeddings lacks {split!r}"
        elif not Path(file).is_file():
            yield f"embeddings/{split}", f"no file {file}"


def _of_own_network(settings: dict, row: str, method: methods.Method) -> Iterator[tuple[str, str]]:
    """Of a row whose features are of a network that is trained on a share of the images."""
    if not is_trained(settings):
        way_out = (
            f"set {row}/on to val, or {row} to null" if isinstance(method.features, dict) else f"set {row} to null"
        )
        yield row, f"needs a network that is trained here, on a part of the images; {way_out}"
    elif settings["erm"]["holdout"] is None:
        yield "erm", f"missing key 'holdout', which {row} needs"


def _of_dac(settings: dict, config: dict) -> Iterator[tuple[str, str]]:
    if settings["dac"]["batchnorm"] == "drift" and settings["embeddings"]["standardize"]:
        yield "dac/batchnorm", "drift moves the features, which embeddings/standardize cannot follow; set it to frozen"


def _of_ddb(settings: dict, config: dict) -> Iterator[tuple[str, str]]:
    ddb, source = settings["ddb"], settings["images"]["source"]
    if "augmentation" not in settings:
        yield "", "missing key 'augmentation', which ddb retrains with"
    classes = len(ddb["retrain"]["weights"])
    if source != "metadata" and classes != 2:
        yield "ddb/retrain/weights", f"{classes} numbers, but the dataset has 2 classes; give one for each"
    if ddb["generator"] == "cut_paste":
        if ddb["cut_paste"]["masks"] == "dataset" and source != "minibirds":
            yield "ddb/cut_paste/masks", NO_MASKS
        return
    for key, name in ((key, model["name"]) for key, model in ddb["models"].items() if isinstance(model, dict)):
        local = name.startswith(("/", ".", "~")) or len(Path(name).parts) > 2
        if local and not Path(name).is_dir():
            yield f"ddb/models/{key}/name", f"no folder {name}"


OF_METHODS = {"dac": _of_dac, "ddb": _of_ddb}


def _of_unclip(settings: dict) -> Iterator[tuple[str, str]]:
    backbone = settings.get("backbone", {})
    if "images" not in settings or not backbone.get("name", "").startswith("open_clip:"):
        yield "unclip", "decodes embeddings of CLIP; set backbone/name to open_clip:NAME, or unclip to null"
    elif backbone["train"] or not backbone["pretrained"]:
        yield "unclip", "decodes CLIP's own embeddings; set backbone/pretrained to true and train to false"
    elif settings.get("edits") is None:
        yield "", "missing key 'edits', which unclip shows"


def _with_attributes(settings: dict, config: dict, labels: dict[str, dict]) -> Iterator[str]:
    """Who needs the attribute, and where: without it they would fail only after the training."""
    for name in (name for name in config["variants"] if settings[name] is not None):
        if (groups := labels[name]["groups"]) != "none":
            yield f"{name} needs on {SPLITS_OF[groups]}"
        elif settings[name]["select_by"] in ("worst_group", "worst_value"):
            yield f"{name}/select_by: {settings[name]['select_by']} needs on validation"
    if "validation_bias" in config["studies"]:
        yield "validation_bias needs on validation"
