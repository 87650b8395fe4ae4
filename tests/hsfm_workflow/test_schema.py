import json

import pytest
import yaml
from hsfm_workflow import ROOT, schema
from hsfm_workflow.allowed import allowed
from jsonschema import Draft202012Validator


def test_the_schema_is_that_of_the_classes():
    assert schema.as_json() == schema.FILE.read_text(), f"run {schema.COMMAND}"


def test_it_is_a_schema():
    Draft202012Validator.check_schema(json.loads(schema.as_json()))


@pytest.mark.parametrize("file", sorted(path.name for path in (ROOT / "config").glob("*.yaml")))
def test_a_configuration_and_a_part_of_one_fit_it(file):
    own = yaml.safe_load((ROOT / "config" / file).read_text())
    assert list(Draft202012Validator(json.loads(schema.FILE.read_text())).iter_errors(own)) == []


def test_every_key_has_a_meaning():
    whole = json.loads(schema.as_json())
    keys = {
        (kind, key): own for kind, part in whole["$defs"].items() for key, own in part.get("properties", {}).items()
    }
    told = {kind for kind, part in whole["$defs"].items() if part.get("description")}
    shares = ("Sizes", "Agreement")  # of splits, by their names
    silent = [
        key for key, own in keys.items() if "description" not in own and own.get("$ref", "").split("/")[-1] not in told
    ]
    assert [key for key in silent if key[0] not in shares and key[1] != "source"] == []


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"type": "integer", "exclusiveMinimum": 0}, "whole number from 1"),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, "number above 0 and below 1"),
        ({"type": "number", "minimum": 0, "maximum": 1}, "number from 0 to 1"),
        ({"type": "number", "maximum": 1}, "number to 1"),
        ({"type": "integer", "minimum": 8, "multipleOf": 8}, "whole number from 8 that 8 divides"),
        ({"type": "array", "prefixItems": [{"type": "number"}] * 3, "minItems": 3, "maxItems": 3}, "list of 3 numbers"),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, "list of texts, none twice"),
        ({"anyOf": [{"enum": ["a", "b"]}, {"const": "c"}]}, "`a`, `b` or `c`"),
        ({"anyOf": [{"enum": ["a", "b"]}, {"type": "null"}]}, "`a`, `b`, or null"),
        ({"anyOf": [{"$ref": "#/$defs/own"}, {"type": "null"}]}, "section, or null"),
    ],
)
def test_what_is_allowed_is_said_in_words(part, words):
    assert allowed(part, {"$defs": {"own": {"type": "object", "properties": {}}}}) == words
