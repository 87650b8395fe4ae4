"""The configuration as one pydantic model, composed of the settings classes that lie beside the code.

Importing the classes takes seconds; `hsfm_workflow.config` does it only for a configuration that it has not seen. From
the folder of the repository,

    PYTHONPATH=.:workflow python -m hsfm_workflow.schema

writes config/schema.json, which editors and the documentation read.
"""

import functools
import json
import re
from collections.abc import Iterator
from importlib import import_module
from typing import Annotated, Any, Literal, Union

from pydantic import AfterValidator, ConfigDict, Discriminator, Field, NonNegativeInt, PositiveInt, Tag, create_model
from pydantic.json_schema import GenerateJsonSchema

from hsfm.analysis.edits import EditSettings
from hsfm.analysis.sweep import SweepSettings
from hsfm.analysis.unclip import UnclipSettings
from hsfm.analysis.validation_bias import ValidationBiasSettings
from hsfm.core.device import ComputeSettings
from hsfm.core.mistakes import checked
from hsfm.core.nested import merged
from hsfm.core.settings import SOME, FrozenSettings, Unlike
from hsfm.data.transforms import AugmentationSettings, TransformSettings
from hsfm.features.embeddings import EmbeddingSettings
from hsfm.heads import known_methods as methods
from hsfm.heads.erm_head import ERMHeadSettings
from hsfm.heads.hard_set import HardSetSettings
from hsfm.heads.method_settings import MethodSettings, Rule
from hsfm.methods.dac.masks import MaskSettings
from hsfm.models.backbone import BackboneSettings
from hsfm.models.erm import TrainingSettings
from hsfm.models.fine_tuning import filled
from hsfm_workflow import ROOT, SOURCES
from hsfm_workflow.checks import is_trained

FILE = ROOT / "config" / "schema.json"
COMMAND = "PYTHONPATH=.:workflow python -m hsfm_workflow.schema"


def dataset_name(name: str) -> str:
    if not re.fullmatch(NAME, name) or name in ("tables", "figures"):
        said = "lower case, digits and underscores; results/tables and results/figures are taken"
        raise ValueError(f"{name!r} cannot be the name of a dataset: {said}")
    return name


def variant(values: dict) -> dict:
    """One name and its settings; raises ValueError for a name that something else has, and for a method on images."""
    if len(values) != 1:
        raise ValueError(f"a variant is one name and its settings, {{NAME: {{method: ...}}}}; got {len(values)} names")
    (name,) = values
    if not re.fullmatch(NAME, name):
        raise ValueError(f"{name!r} cannot be the name of a variant: lower case, digits and underscores")
    if name in (*methods.found(), *Dataset.model_fields, "erm", "studies"):
        raise ValueError(f"{name!r} cannot be the name of a variant: something else is called that")
    if methods.found()[values[name].method].images:
        raise ValueError(f"variants are for methods on embeddings, but {values[name].method} is trained on images")
    return values


NAME = "[a-z][a-z0-9_]*"
Seeds = Annotated[tuple[NonNegativeInt, ...], SOME, Unlike]
Study = Literal["selection", "sweep", "ablations", "validation_bias"]
Images = Annotated[
    Union[tuple(import_module(f"hsfm.data.sources.{name}").Settings for name in SOURCES)],  # noqa: UP007
    Field(discriminator="source"),
]


def absent(description: str | None = None) -> Any:
    """A section that a dataset may lack, which is not the same as null."""
    return Field(None, description=description, json_schema_extra=lambda schema: schema.pop("default", None))


class Shards(FrozenSettings):
    """Number of jobs that share a stage of one dataset and run; their output is gathered into the same file, byte for
    byte, that one job writes. For a cluster, or several GPUs."""

    embedding: PositiveInt = Field(description="Jobs that embed the images, each a share of every split.")
    masks: PositiveInt = Field(description="Jobs that make masks out of heat maps.")
    generation: PositiveInt = Field(description="Jobs that make DDB's images, by inpainting or by cut and paste.")


class Dataset(FrozenSettings):
    """One dataset: its images and a backbone, or embeddings that are there already; then the methods' settings."""

    model_config = ConfigDict(validate_default=False)  # None stands for a section that is absent

    images: Images = absent("Where the images and their labels come from; the other keys depend on the source.")
    pixels: Literal["cached", "files"] = absent(
        "Images in files: cached decodes each once, into results/<dataset>/decoded.npy, which all stages and runs "
        "read; files decodes them whenever they are needed, and takes no disk."
    )
    decode_size: Literal["needed", "original"] = absent(
        "Size of cached images: needed is as small as training and the transform allow, aspect ratio kept unless the "
        "transform itself squashes, and never enlarged; original is as in the files."
    )
    backbone: BackboneSettings = absent()
    transform: TransformSettings = absent()
    augmentation: AugmentationSettings = absent()
    erm: TrainingSettings = absent()
    embeddings: EmbeddingSettings
    erm_head: ERMHeadSettings = Field(default_factory=ERMHeadSettings)
    hard_set: HardSetSettings = Field(default_factory=HardSetSettings)
    masks: MaskSettings = Field(default_factory=MaskSettings)
    edits: EditSettings | None = absent("What HSFM's edits mean; null measures nothing.")
    unclip: UnclipSettings | None = absent("Edits of CLIP embeddings as pictures; null draws none.")
    sweep: SweepSettings = absent()
    validation_bias: ValidationBiasSettings = absent()


class Configuration(FrozenSettings):
    """Every key of a configuration. A file may hold a part: the rest is taken from config/config.yaml."""

    datasets: Annotated[tuple[str, ...], Unlike] = Field(
        min_length=1,
        json_schema_extra={"uniqueItems": True},
        description="Which datasets to run, each a key of settings; the order of the tables.",
    )
    runs: Seeds = Field(
        description="Seeds of the backbone training. Each run is a backbone of its own with all methods on it."
    )
    seeds: Seeds = Field(
        description="Seeds of a method on one backbone (drawn support, subsamples, shuffles). One job fits them all."
    )
    select_by: Rule = Field(
        description="Rule by which validation picks an epoch or a setting, for methods that have none of their own: "
        "the accuracy of the worst group, which reads group labels of validation, of the worst class, the average, or "
        "that of the worst inferred group, which reads features and classes."
    )
    studies: Annotated[tuple[Study, ...], Unlike] = Field(
        json_schema_extra={"uniqueItems": True},
        description="What to look into beyond the table: selection, every method on embeddings under each rule of "
        "select_by; sweep, HSFM under many settings; ablations, HSFM with one part at a time taken away; "
        "validation_bias, every method on validation splits of growing bias.",
    )
    device: str = Field(
        pattern="^(auto|cpu|cuda(:[0-9]+)?)$",
        description="Where tensors live. auto takes CUDA where there is one, else the CPU; a named device that is "
        "absent is an error. Jobs share a GPU that is named by its number; otherwise each takes one that no other job "
        "has.",
    )
    compute: ComputeSettings
    training_threads: PositiveInt | Literal["auto"] = Field(
        description="CPU threads of training and embedding; auto takes as many as this machine has, at most 8. On the "
        "CPU, results repeat bit for bit for a given number."
    )
    training_gpus: PositiveInt = Field(
        description="GPUs of one machine that an ERM training gets, at most as many as --resources gpu allows; they "
        "share each batch, and on the CPU there is one process. Nothing reruns when this changes."
    )
    shards: Shards
    container: Annotated[str, Field(min_length=1)] | None = Field(
        description="Image that jobs run in when Snakemake is called with --sdm apptainer (docs/how-to/cluster.md): a "
        "URL such as docker://ghcr.io/NAME/hsfm:TAG, or a .sif file. null for none."
    )


@functools.cache
def settings_classes() -> dict[str, type[MethodSettings]]:
    """The settings of every method in hsfm/methods, by its name."""
    return {name: import_module(f"hsfm.methods.{name}").Settings for name in methods.found()}


@functools.cache
def configuration() -> type[Configuration]:
    """The model of a whole configuration, with a section for every method."""
    sections = {
        name: (kind | None, absent(f"{summary(name)} null leaves its row out for this dataset."))
        for name, kind in settings_classes().items()
    }
    dataset = create_model("Dataset", __base__=Dataset, __doc__=Dataset.__doc__, **sections)
    method = (Literal[*settings_classes()], Field(description="Whose settings they are."))
    said = "Settings that differ from the dataset's section of the method."
    own = create_model("Variant", __config__=ConfigDict(extra="allow"), __doc__=said, method=method)
    name = Annotated[Literal["erm", *settings_classes()], Tag("method")]
    variants = Annotated[dict[str, own], AfterValidator(variant), Tag("variant")]
    row = Annotated[name | variants, Discriminator(lambda row: "variant" if isinstance(row, dict) else "method")]
    rows = Field(
        min_length=1,
        json_schema_extra={"uniqueItems": True},
        description="Which methods to compare; the order of the rows. {NAME: {method: dfr, fits: 5}} is a row of its "
        "own: that method with other settings than the dataset has for it.",
    )
    datasets = Field(min_length=1, description="Everything about each dataset, by its name.")
    methods_of = (Annotated[tuple[row, ...], Unlike], rows)
    settings = (dict[Annotated[str, AfterValidator(dataset_name)], dataset], datasets)
    parts = {"methods": methods_of, "settings": settings}
    return create_model("Configuration", __base__=Configuration, __doc__=Configuration.__doc__, **parts)


def summary(method: str) -> str:
    """The first paragraph of a method's module."""
    paragraph = (import_module(f"hsfm.methods.{method}").__doc__ or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split())


def validated(raw: dict, studied: dict[str, list[str]]) -> tuple[dict, list[str]]:
    """A configuration with all defaults, as `read_config` returns it, or its mistakes, one line each.

    raw: whole, as files and command line have it. studied: sections of a dataset that a study needs, by its name. A
    dataset's `labels` say which group labels each row, and every other method with defaults, is trained on, and what it
    halves of validation.
    """
    model, mistakes = checked(configuration(), raw)
    if mistakes:
        return {}, mistakes
    config = model.model_dump(mode="json", exclude={"settings"})
    rows = dict(_rows(model.methods))
    variants = {name: method for name, (method, _, _) in rows.items() if method != "erm"}
    config |= {"rows": config["methods"], "methods": list(rows), "variants": variants, "settings": {}, "labels": {}}
    needed = {*rows, *(name for study in model.studies for name in studied[study])}
    for dataset, sections in model.settings.items():
        left = type(sections).model_fields.keys() - sections.model_fields_set
        lacking = {name for name in left if getattr(sections, name) is None}
        own = config["settings"][dataset] = sections.model_dump(mode="json", exclude=lacking)
        if dataset in model.datasets and is_trained(own) and sections.erm is not None:
            try:
                own["erm"] = filled(sections.erm, sections.backbone).model_dump(mode="json")
            except ValueError as error:
                mistakes.append(f"settings/{dataset}/erm: {error}")
        asked = {name: (name, {}, ("settings", dataset, name)) for name in settings_classes()}
        asked |= {name: row for name, row in rows.items() if name not in asked and name != "erm"}
        given = sections.model_dump(mode="json", exclude_unset=True)
        fitted = {name: _row(given, *row, model.select_by) for name, row in asked.items()}
        if dataset in model.datasets:
            mistakes += [line for name, (_, lines) in fitted.items() if name in needed for line in lines]
        found = {name: settings for name, (settings, lines) in fitted.items() if not lines}
        own |= {name: settings and settings.model_dump(mode="json") for name, settings in found.items()}
        asked = {name: settings for name, settings in found.items() if settings is not None}
        config["labels"][dataset] = {n: {"groups": s.groups, "halves": s.halves} for n, s in asked.items()}
    return config, list(dict.fromkeys(mistakes))


def _rows(rows: tuple) -> Iterator[tuple[str, tuple[str, dict, tuple]]]:
    """By name a row's method, the settings that differ, and where these stand."""
    for number, row in enumerate(rows):
        if isinstance(row, dict):
            ((name, own),) = row.items()
            yield name, (own.method, own.model_extra, ("methods", number, name))
        else:
            yield row, (row, {}, ())


def _row(own: dict, method: str, other: dict, where: tuple, select_by: str) -> tuple[MethodSettings | None, list[str]]:
    """Settings of one row on one dataset, None where it is left out; or mistakes. own: what the dataset gives."""
    if method in own and own[method] is None:
        return None, []
    kind, like = settings_classes()[method], own.get(methods.found()[method].like) or {}
    values = merged(merged(kind.lent(like), own.get(method, {})), other)
    if values.get("select_by", kind.model_fields["select_by"].default) is None:
        values["select_by"] = select_by
    found, lines = checked(kind, values, where)
    if lines and method not in own and not other:
        section = "/".join(where[:-1])
        lines = [f"{section}: missing key {method!r}, which methods asks for; {method}: null leaves it out"]
    return found, lines


class JsonSchema(GenerateJsonSchema):
    """A JSON schema without titles, which repeat the keys."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def generate(self, schema: object, mode: str = "validation") -> dict[str, Any]:
        whole = super().generate(schema, mode)
        for part in (whole, *whole.get("$defs", {}).values()):
            part.pop("title", None)
        return whole


def as_json() -> str:
    """The schema of a configuration file, which may hold a part of a configuration: no key is required in it."""
    schema = configuration().model_json_schema(schema_generator=JsonSchema)
    schema = {"$schema": JsonSchema.schema_dialect, "title": "hsfm configuration", **_for_parts(schema)}
    base = "Another dataset, whose settings are taken where this one has none; but for images, and for ddb where this "
    base += "one has no such section."
    dataset = schema["$defs"]["Dataset"]["properties"]
    schema["$defs"]["Dataset"]["properties"] = {"base": {"description": base, "type": "string"}, **dataset}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _for_parts(schema: Any) -> Any:
    """A schema without required keys, so that several forms of a section may fit."""
    if isinstance(schema, list):
        return [_for_parts(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    left = {key: value for key, value in schema.items() if key not in ("discriminator", "required")}
    return {"anyOf" if key == "oneOf" else key: _for_parts(value) for key, value in left.items()}


if __name__ == "__main__":
    FILE.write_text(as_json())
