"""The configuration's reference as Markdown, out of its JSON schema and the values of the default run."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import yaml
from allowed import allowed, options, resolved

Schema = Mapping[str, Any]
SOURCE = "Which loader draws or reads the images; metadata is your own table."


def reference(schema: Schema, run: Mapping[str, Any]) -> str:
    """Sections with every key: what it is, what is allowed, its default, and its value in the default run."""
    return "\n".join(_Reference(schema).write(run))


def defaults(schema: Schema, section: str) -> dict[str, Any]:
    """Those of the keys of a dataset's section."""
    part = schema["$defs"]["Dataset"]["properties"][section]
    forms = options(part, schema)
    return {key: own.get("default") for form in forms for key, own in form.get("properties", {}).items()}


class _Reference:
    def __init__(self, schema: Schema):
        self.schema = schema

    def write(self, run: Mapping[str, Any]) -> Iterator[str]:
        yield "## The whole run\n"
        plain = {key: own for key, own in self.schema["properties"].items() if key != "settings"}
        yield from self._keys("", plain, run, "")
        yield "## A dataset's settings\n"
        yield "Everything below stands under `settings` and the dataset's name, as `settings: {minibirds: {...}}`.\n"
        ((name, values),) = run["settings"].items()
        sections = {key: self._own(own) for key, own in self.schema["$defs"]["Dataset"]["properties"].items()}
        yield from self._keys("", {k: own for k, own in sections.items() if not self._inner(own)}, values, name)
        for key, own in sections.items():
            if self._inner(own):
                yield f"### {key}\n"
                yield f"{_text(own.get('description', ''))}\n"
                yield from self._section(key, own, values.get(key, {}), name)

    def _section(self, path: str, own: Schema, values: Mapping[str, Any], dataset: str) -> Iterator[str]:
        kinds = [form for form in options(own, self.schema) if "properties" in form]
        if len(kinds) == 1:
            yield from self._keys(path, kinds[0]["properties"], values, dataset)
            return
        sources = [kind["properties"]["source"]["const"] for kind in kinds]
        yield from self._keys(path, {"source": {"enum": sources, "description": SOURCE}}, values, dataset)
        for source, kind in zip(sources, kinds, strict=True):
            yield f"#### source: {source}\n"
            yield f"{_text(kind['description'])}\n"
            known = values if values.get("source") == source else {}
            keys = {key: one for key, one in kind["properties"].items() if key != "source"}
            yield from self._keys(f"{path}/{source}", keys, known, dataset)

    def _keys(self, path: str, keys: Schema, values: Mapping[str, Any], dataset: str) -> Iterator[str]:
        """dataset: of the default run, whose values are shown where a key has no default; empty outside of datasets."""
        for key, own in keys.items():
            own = self._own(own)
            here = f"{path}/{key}" if path else key
            inner = self._inner(own)
            yield f"```{{confval}} {here}"
            yield f":type: {allowed(own, self.schema)}"
            yield f":default: {self._default(key, own, values, dataset)}\n"
            yield f"{_text(own.get('description', ''))}\n```\n"
            yield from self._keys(here, inner, values.get(key) or {}, dataset)

    def _default(self, key: str, own: Schema, values: Mapping[str, Any], dataset: str) -> str:
        """The default of a key; where it has none, the value in the default run."""
        if "default" in own:
            return _code(own["default"])
        if key not in values:
            return "none"
        value = "a section" if isinstance(values[key], Mapping) else _code(values[key])
        return f"none; {value} for {dataset}" if dataset else value

    def _own(self, part: Schema) -> dict[str, Any]:
        return resolved(part, self.schema)

    def _inner(self, own: Schema) -> Schema:
        """The keys of a section, none of what is no section."""
        return {key: one for form in options(own, self.schema) for key, one in form.get("properties", {}).items()}


def _code(value: Any) -> str:
    """A value as it would stand in the configuration."""
    if isinstance(value, float):
        return f"`{_decimal(value)}`"
    return f"`{yaml.safe_dump(value, default_flow_style=True, width=10000).removesuffix('...' + chr(10)).strip()}`"


def _decimal(value: float) -> str:
    return np.format_float_positional(value, trim="0")


def _text(words: str) -> str:
    """Schema descriptions are plain text: what Markdown would read as its own is escaped."""
    words = " ".join(words.split())
    for sign in ("\\", "*", "_", "<", "[", "{", "|", "$"):
        words = words.replace(sign, f"\\{sign}")
    return words
