"""Validation of plain values by settings classes, with every mistake as one line."""

import difflib
from collections.abc import Iterator
from functools import reduce
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
        found = [_said(adapter, values, each) for each in error.errors(include_url=False)]
    paths = {path for path, _ in found}
    # a list with a wrong item is too short besides, without it
    outer = {path[:depth] for path in paths for depth in range(len(path)) if not isinstance(path[depth], str)}
    lines = (f"{'/'.join(map(str, (*where, *path)))}: {said}" for path, said in found if path not in outer)
    return None, list(dict.fromkeys(line.removeprefix(": ") for line in lines))


def _said(adapter: TypeAdapter, values: Any, error: dict) -> tuple[Path, str]:
    """Path and words of one of pydantic's errors."""
    path, kind, context = tuple(_path(values, error["loc"])), error["type"], error.get("ctx", {})
    if kind == "missing":
        return path, f"missing key {error['loc'][-1]!r}"
    if kind == "extra_forbidden":
        return path[:-1], f"unknown key {path[-1]!r}; {_hint(adapter, values, path)}"
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


def _hint(adapter: TypeAdapter, values: Any, path: Path) -> str:
    """The key that is most like an unknown one, else all keys of its section."""
    whole = adapter.json_schema()
    forms = list(_forms(whole, whole))
    for key in path[:-1]:
        forms = [form for part in _inside(forms, key) for form in _forms(part, whole)]
    section = reduce(lambda part, key: part[key], path[:-1], values)
    known = [key for form in forms if _is_of(section, form) for key in form.get("properties", ())]
    close = difflib.get_close_matches(str(path[-1]), known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(dict.fromkeys(known))}"


def _forms(part: dict, whole: dict) -> Iterator[dict]:
    """The forms that a part of a JSON schema may have, without references."""
    if "$ref" in part:
        part = whole["$defs"][part["$ref"].removeprefix("#/$defs/")]
    choices = part.get("anyOf", part.get("oneOf"))
    if choices is None:
        yield part
    for choice in choices or ():
        yield from _forms(choice, whole)


def _inside(forms: list[dict], key: str | int) -> Iterator[dict]:
    """Schemas of a key of a section, or of the items of a list."""
    for form in forms:
        found = form.get("properties", {}).get(key, form.get("additionalProperties") or form.get("items"))
        yield from [found] if isinstance(found, dict) else []


def _is_of(section: dict, form: dict) -> bool:
    """Whether a section is of a form by its constants, such as the source of images."""
    named = {key: part["const"] for key, part in form.get("properties", {}).items() if "const" in part}
    return all(section.get(key, word) == word for key, word in named.items())
