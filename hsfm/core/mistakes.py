"""Validation of plain values by settings classes, with every mistake as one line."""

from collections.abc import Iterator
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError

Path = tuple[str | int, ...]
OF_SECTIONS = ("model_type", "model_attributes_type", "dict_type")


def checked(kind: object, values: Any, where: Path = ()) -> tuple[Any, list[str]]:
    """Values as an instance of a settings class, or None with one line per mistake that starts with its path.

    where: path of the values in the configuration. A text that is a number or a truth value passes where one is
    expected: Snakemake hands over `--config 'runs=[0, 1]'` as ['0', '1'], and YAML reads 5e-4 as a text.
    """
    adapter = TypeAdapter(kind)
    try:
        return adapter.validate_python(values), []
    except ValidationError as error:
        found = [_said(values, each) for each in error.errors(include_url=False)]
    paths = {path for path, _ in found}
    # a list with a wrong item is too short besides, without it
    outer = {path[:depth] for path in paths for depth in range(len(path)) if not isinstance(path[depth], str)}
    lines = (f"{'/'.join(map(str, (*where, *path)))}: {said}" for path, said in found if path not in outer)
    return None, list(dict.fromkeys(line.removeprefix(": ") for line in lines))


def _said(values: Any, error: dict) -> tuple[Path, str]:
    """Path and words of one of pydantic's errors."""
    path, kind, context = tuple(_path(values, error["loc"])), error["type"], error.get("ctx", {})
    if kind == "missing":
        return path, f"missing key {error['loc'][-1]!r}"
    if kind == "value_error":
        return path, str(context["error"])
    if kind == "union_tag_not_found":
        return path, f"missing key {context['discriminator']}"
    if kind == "union_tag_invalid":
        key = context["discriminator"].strip("'")
        return (*path, key), f"unknown value {context['tag']!r}; allowed are {context['expected_tags']}"
    if kind == "literal_error":
        return path, f"unknown value {error['input']!r}; allowed are {context['expected']}"
    expected = "expected a section" if kind in OF_SECTIONS else error["msg"].replace("Input should be", "expected")
    shown = yaml.safe_dump(error["input"], default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return path, f"{expected}, got {shown}"


def _path(values: Any, location: Path) -> Iterator[str | int]:
    """The keys of a location that are there, without pydantic's names of a union's forms."""
    form = None
    for key in location:
        if isinstance(values, dict) and values.get("source") == key and values is not form:
            form = values  # the source of images names their form, and may be a key as well
        elif key in (values if isinstance(values, dict) else range(len(values)) if isinstance(values, list) else ()):
            yield key
            values = values[key]
