import json

import pytest
import yaml
from hsfm_workflow import ROOT, schema
from jsonschema import Draft202012Validator


def test_the_schema_is_that_of_the_classes():
    assert schema.as_json() == schema.FILE.read_text(), f"run {schema.COMMAND}"


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
