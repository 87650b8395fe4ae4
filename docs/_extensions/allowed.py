"""Words for what a JSON schema allows, as messages and the reference of the documentation show it."""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]
KINDS = {
    "integer": ("whole number", "whole numbers"),
    "number": ("number", "numbers"),
    "string": ("text", "texts"),
    "boolean": ("true or false", "true or false"),
    "null": ("null", "null"),
    "object": ("section", "sections"),
}


def allowed(part: Schema, whole: Schema, many: bool = False) -> str:
    """Allowed values of a part of a schema, in words; one without a type is an error. many: in the plural."""
    forms = options(part, whole)
    words = [word for form in forms for word in words_of(form)]
    others = [_one(form, whole, many) for form in forms if not words_of(form)]
    listed = ", ".join(f"`{word}`" for word in words)
    if not others:
        return " or ".join(listed.rsplit(", ", 1))
    return ", or ".join(dict.fromkeys([listed, *others] if words else others))


def words_of(form: Schema) -> list:
    """Words of which a value has to be one; empty where it may be another."""
    return form.get("enum", [form["const"]] if "const" in form else [])


def _one(form: Schema, whole: Schema, many: bool) -> str:
    """A form that is no list of words."""
    if form["type"] == "array":
        return _list(form, whole, many)
    if form["type"] == "object" and "properties" not in form and isinstance(form.get("additionalProperties"), dict):
        return f"section of {allowed(form['additionalProperties'], whole, many=True)} by name"
    return " ".join([KINDS[form["type"]][many], *_bounds(form)])


def options(part: Schema, whole: Schema) -> list[Schema]:
    """The forms that a part may have, null last; one where it has no choice."""
    own = resolved(part, whole)
    return list(_options(own, whole)) if "anyOf" in own or "oneOf" in own else [own]


def _options(part: Schema, whole: Schema) -> Iterator[Schema]:
    for form in part.get("anyOf", part.get("oneOf", [])):
        yield from options(form, whole)


def resolved(part: Schema, whole: Schema) -> dict[str, Any]:
    """A part with what it refers to; its own words come first."""
    if "$ref" not in part:
        return dict(part)
    named = resolved(whole["$defs"][part["$ref"].removeprefix("#/$defs/")], whole)
    return {**named, **{key: value for key, value in part.items() if key != "$ref"}}


def _bounds(form: Schema) -> Iterator[str]:
    """Bounds of a number, form of a text."""
    least, most = form.get("minimum"), form.get("maximum")
    if form["type"] == "integer" and "exclusiveMinimum" in form:
        least = form["exclusiveMinimum"] + 1
    lower = f"from {least}" if least is not None else f"above {form.get('exclusiveMinimum')}"
    upper = f"to {most}" if most is not None else f"below {form.get('exclusiveMaximum')}"
    found = [words for words in (lower, upper) if not words.endswith("None")]
    yield from [(" " if least is not None and most is not None else " and ").join(found)] if found else []
    yield from [f"that {form['multipleOf']} divides"] if "multipleOf" in form else []
    yield from [f"of the form `{form['pattern']}`"] if "pattern" in form else []


def _list(form: Schema, whole: Schema, many: bool) -> str:
    least, most = form.get("minItems", 0), form.get("maxItems")
    number = f"{least} " if least == most else f"{least} to {most} " if most else f"{least} or more " if least else ""
    item = form["prefixItems"][0] if "prefixItems" in form else form["items"]
    unlike = ", none twice" if form.get("uniqueItems") else ""
    return f"list{'s' * many} of {number}{allowed(item, whole, many=most != 1)}{unlike}"
