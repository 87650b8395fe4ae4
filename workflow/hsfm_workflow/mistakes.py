"""Validation of plain values by settings classes: texts read as numbers, and every mistake as one line."""

import difflib
import json
from collections.abc import Iterator
from math import isfinite
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from hsfm_workflow.allowed import allowed, options, resolved, words_of

Path = tuple[str | int, ...]
WORDS = {"null": None, "true": True, "yes": True, "false": False, "no": False}
OF_TEXT = (
    "literal_error",
    "value_error",
    "string_",
    "union_tag",
    "missing",
    "extra_forbidden",
)  # no number was expected


class JsonSchema(GenerateJsonSchema):
    """A JSON schema without titles, which repeat the keys."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def generate(self, schema: object, mode: str = "validation") -> dict[str, Any]:
        whole = super().generate(schema, mode)
        for part in (whole, *whole.get("$defs", {}).values()):
            part.pop("title", None)
        return whole


def checked(kind: object, values: Any, where: Path = ()) -> tuple[Any, list[str]]:
    """Values as an instance of a settings class, or None with one line per mistake that starts with its path.

    where: path of the values in the configuration.

    Types are strict, but for texts that are a number, a truth value or null where one is expected: Snakemake hands over
    `--config 'runs=[0, 1]'` as ['0', '1'], and YAML reads 5e-4 as a text.
    """
    adapter = TypeAdapter(kind)
    text = json.dumps(values, default=str)  # JSON has lists for tuples, and whole numbers for any
    while True:
        try:
            return adapter.validate_json(text, strict=True), []
        except ValidationError as error:
            schema, values = adapter.json_schema(schema_generator=JsonSchema), json.loads(text)
            places = [(place(schema, found), found) for found in error.errors(include_url=False)]
        texts = {path for (path, part), found in places if numeric(found, part)}
        if not sum(read_text(values, path) for path in texts):
            found = describe(schema, values, places)
            return None, list(dict.fromkeys(line((*where, *path), said) for path, said in found))
        text = json.dumps(values)


def place(schema: dict, error: dict) -> tuple[Path, dict]:
    """Path of an error's value and the part of the schema there, without the names of a union's branches.

    Of a key that is missing or unknown: of the section around it.
    """
    part, path = schema, ()
    around = error["type"] in ("missing", "extra_forbidden")
    for key in error["loc"][:-1] if around or error["loc"][-1:] == ("[key]",) else error["loc"]:
        own = resolved(part, schema)
        if "oneOf" in own:  # a tag, which says what form of several it is
            part = {"$ref": own["discriminator"]["mapping"][key]} if "discriminator" in own else {"anyOf": own["oneOf"]}
            continue
        inner = [child(option, key) for option in options(part, schema)]
        found = next((one for one in inner if one is not None), None)
        if found is not None:
            part, path = found, (*path, key)
    return path, resolved(part, schema)


def numeric(error: dict, part: dict) -> bool:
    """Whether a text in the place of an error may stand for a number, a truth value or null."""
    if error["type"] == "literal_error":  # of words, and null
        return str(error["input"]).lower() == "null" and {"type": "null"} in part.get("anyOf", [])
    return not error["type"].startswith(OF_TEXT)


def child(part: dict, key: str | int) -> dict | None:
    """The schema of a section's key or of a list's item."""
    if isinstance(key, int):
        first = part.get("prefixItems", [])
        return first[key] if key < len(first) else part.get("items")
    other = part.get("additionalProperties")
    return part.get("properties", {}).get(key, other if isinstance(other, dict) else None)


def at(values: Any, path: Path) -> Any:
    for key in path:
        values = values[key]
    return values


def read_text(values: Any, path: Path) -> bool:
    """Replace a text by the number, truth value or null that it stands for; returns whether it stands for one."""
    if not path or not isinstance(text := at(values, path), str):
        return False
    value = WORDS.get(text.lower(), text)
    for number in (float, int):  # an integer stays one
        try:
            value = number(text)
        except ValueError:
            continue
    at(values, path[:-1])[path[-1]] = value
    return not isinstance(value, str)


def describe(schema: dict, values: Any, places: list[tuple[tuple[Path, dict], dict]]) -> Iterator[tuple[Path, str]]:
    """Errors in words: where, and what was expected and came."""
    missing, deeper = {}, {path[:depth] for (path, _), _ in places for depth in range(len(path))}
    for (path, _), error in places:
        if error["type"] == "missing" and isinstance(error["loc"][-1], str):
            missing.setdefault(path, []).append(repr(error["loc"][-1]))
    for (path, part), error in places:
        if error["type"] == "missing" and path in missing:
            keys = missing[path]
            yield path, f"missing key{'s' if len(keys) > 1 else ''} {', '.join(keys)}"
        elif error["type"] == "extra_forbidden":
            yield path, unknown_key(str(error["loc"][-1]), part, schema)
        elif error["type"] == "value_error":
            yield joined(path, str(error["ctx"]["error"]), part, schema)
        elif error["type"].startswith("union_tag"):
            key = part["discriminator"]["propertyName"]
            if error["type"] == "union_tag_not_found":
                yield path, f"missing key {key!r}"
            else:
                yield (*path, key), unknown_value(at(values, path)[key], list(part["discriminator"]["mapping"]))
        elif path not in deeper:  # a list with a wrong item is too short besides, without it
            yield path, unlike(at(values, path), part, schema)


def joined(path: Path, said: str, part: dict, schema: dict) -> tuple[Path, str]:
    """A message with its path; one that starts with a key of the section is of that key."""
    key, colon, rest = said.partition(": ")
    known = [name for option in options(part, schema) for name in option.get("properties", {})]
    return ((*path, key), rest) if colon and key.split("/")[0] in known else (path, said)


def line(path: Path, said: str) -> str:
    return f"{'/'.join(map(str, path))}: {said}" if path else said


def unknown_key(key: str, part: dict, schema: dict) -> str:
    known = list(dict.fromkeys(name for option in options(part, schema) for name in option.get("properties", {})))
    close = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"


def unknown_value(value: Any, known: list) -> str:
    return f"unknown value {value!r}; allowed are {', '.join(map(str, known))}"


def unlike(value: Any, part: dict, schema: dict) -> str:
    """What was expected in place of a value."""
    forms = options(part, schema)
    words = [word for form in forms for word in words_of(form)]
    if words and (isinstance(value, str) or all(map(words_of, forms))):
        return unknown_value(value, words + ["null"] * ({"type": "null"} in forms))
    if isinstance(value, float) and not isfinite(value):
        return f"{value} is not a finite number"
    expected = allowed(part, schema)
    article = "" if expected.startswith(("true", "`")) else "a "
    return f"expected {article}{expected}, got {shown(value)}"


def shown(value: Any) -> str:
    """A value as it would stand in a configuration."""
    if isinstance(value, str):
        return repr(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10000).removesuffix("...\n").strip()
