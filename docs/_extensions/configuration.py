"""The configuration's reference as Markdown, out of the schema that checks it and the default values."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import yaml

Schema = Mapping[str, Any]
NAMED = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false", "null": "null"}


def reference(schema: Schema, defaults: Mapping[str, Any]) -> str:
    """Sections with every key: what it is, what is allowed, and its value in the default run."""
    return "\n".join(_Reference(schema).write(defaults))


class _Reference:
    def __init__(self, schema: Schema):
        self.schema = schema

    def write(self, defaults: Mapping[str, Any]) -> Iterator[str]:
        yield "## The whole run\n"
        plain = {key: own for key, own in self.schema["properties"].items() if key != "settings"}
        yield from self._keys("", plain, defaults)
        yield "## A dataset's settings\n"
        dataset = self._own(self.schema["$defs"]["dataset"])
        yield "Everything below stands under `settings` and the dataset's name, as `settings: {minibirds: {...}}`.\n"
        yield (
            "```{confval} base\n:type: name of another dataset under `settings`\n:default: none\n\n"
            "What is not said here is taken from there, but for `images`, and for `ddb` where this dataset has no "
            "section of its own.\n```\n"
        )
        (values,) = defaults["settings"].values()
        sections = {key: self._own(own) for key, own in dataset["properties"].items()}
        yield from self._keys("", {k: own for k, own in sections.items() if not self._below(own)}, values)
        for key, own in sections.items():
            if self._below(own):
                yield f"### {key}\n"
                yield f"{_text(own.get('description', ''))}\n"
                if "oneOf" in own:
                    yield f"{self.allowed(own)[0].upper()}{self.allowed(own)[1:]}.\n"
                yield from self._section(key, own, values.get(key))

    def _section(self, path: str, own: Schema, values: Any) -> Iterator[str]:
        if path == "images":
            yield from self._keys(path, own["properties"], values)
            for choice in own["allOf"]:
                condition = choice["if"]["properties"]["source"]
                names = condition.get("enum", [condition.get("const")])
                kind = self._own(choice["then"])
                yield f"#### source: {', '.join(names)}\n"
                yield f"{_text(kind['description'])}\n"
                keys = {key: one for key, one in kind["properties"].items() if key != "source"}
                known = values if values and values.get("source") in names else None
                yield from self._keys(path, keys, known, label=f"{path}/{names[0]}" if len(names) == 1 else path)
        else:
            yield from self._keys(path, self._object(own)["properties"], values)

    def _keys(self, path: str, keys: Mapping[str, Any], values: Any, label: str | None = None) -> Iterator[str]:
        """label: where keys of one name lie under several sources, a name that tells them apart."""
        label = path if label is None else label
        for key, own in keys.items():
            own = self._own(own)
            here = f"{label}/{key}" if label else key
            value = values.get(key) if isinstance(values, Mapping) else None
            said = isinstance(values, Mapping) and key in values
            default = "a section" if said and isinstance(value, Mapping) else _code(value) if said else "none"
            yield f"```{{confval}} {here}"
            yield f":type: {self.allowed(own)}"
            yield f":default: {default}\n"
            yield f"{_text(own.get('description', ''))}\n```\n"
            if self._below(own):
                inner = self._object(own)["properties"]
                yield from self._keys(f"{path}/{key}" if path else key, inner, value, label=here)

    def _own(self, schema: Schema) -> dict[str, Any]:
        """A schema with what it refers to; its own words come first."""
        if "$ref" not in schema:
            return dict(schema)
        named = self._own(self.schema["$defs"][schema["$ref"].removeprefix("#/$defs/")])
        own = {key: value for key, value in schema.items() if key != "$ref"}
        if "items" in own and "items" in named:
            own["items"] = {**named["items"], **own["items"]}
        return {**named, **own}

    def _object(self, own: Schema) -> Schema:
        """The section among the forms that a key may have."""
        if "properties" in own:
            return own
        found = [self._own(one) for one in own.get("oneOf", [])]
        return next((one for one in found if "properties" in one), {"properties": {}})

    def _below(self, own: Schema) -> bool:
        return bool(self._object(own)["properties"])

    def allowed(self, schema: Schema) -> str:
        """What a key may be, in words; a part of the schema that has none is an error."""
        own = self._own(schema)
        if "oneOf" in own:
            return ", or ".join(self.allowed(one) for one in reversed(own["oneOf"]))
        if "const" in own:
            return f"`{own['const']}`"
        if "enum" in own:
            return " or ".join(", ".join(f"`{one}`" for one in own["enum"]).rsplit(", ", 1))
        kind = own["type"]
        if kind == "object":
            return "section of keys" if "properties" in own else "section of datasets"
        if kind == "array":
            return self._list(own)
        words = [NAMED[kind]]
        if "minimum" in own:
            words.append(f"from {own['minimum']}")
        if "exclusiveMinimum" in own:
            words.append(f"above {own['exclusiveMinimum']}")
        if "maximum" in own:
            words.append(f"to {own['maximum']}")
        if "exclusiveMaximum" in own:
            words.append(f"below {own['exclusiveMaximum']}")
        if "multipleOf" in own:
            words.append(f"that {own['multipleOf']} divides")
        if "pattern" in own:
            words.append(f"of the form `{own['pattern']}`")
        return " ".join(words)

    def _list(self, own: Schema) -> str:
        least, most = own.get("minItems", 0), own.get("maxItems")
        number = f"{least}" if least == most else f"{least} to {most}" if most else f"{least} or more" if least else ""
        unlike = ", none twice" if own.get("uniqueItems") else ""
        return f"list of {number} ".replace("  ", " ") + f"({self.allowed(own['items'])}{unlike})"


def _code(value: Any) -> str:
    """A value as it would stand in the configuration."""
    if isinstance(value, float):
        return f"`{_decimal(value)}`"
    return f"`{yaml.safe_dump(value, default_flow_style=True, width=10000).removesuffix('...' + chr(10)).strip()}`"


def _decimal(value: float) -> str:
    return np.format_float_positional(value, trim="0")


def _text(words: str) -> str:
    """Schema descriptions are plain text: what Markdown would read as its own is escaped."""
    for sign in ("\\", "*", "_", "<", "[", "{", "|", "$"):
        words = words.replace(sign, f"\\{sign}")
    return words
