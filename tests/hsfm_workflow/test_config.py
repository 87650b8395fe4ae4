import logging
import os
import re
import subprocess
import sys

import pytest
import yaml
from hsfm_workflow import ROOT, config, schema
from hsfm_workflow.config import read_config

from hsfm.core.nested import merged
from hsfm.methods.dfr import Settings as DFR
from tests.repository import copy_repository


@pytest.fixture(autouse=True)
def _kept_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "KEPT", tmp_path / "kept" / "configuration.json")


def overlay(setting: str) -> dict:
    """`--config KEY=VALUE` as a dict; several are separated by |."""
    parts = [part.partition("=") for part in re.split(r"\|(?=\w+=)", setting)]
    return {key: yaml.safe_load(value) for key, _, value in parts}


def mistakes(caplog, own: dict) -> list[str]:
    """The lines of a refused configuration, each of which names its files."""
    with caplog.at_level(logging.ERROR), pytest.raises(SystemExit):
        read_config(own, ["config/config.yaml"])
    lines = [record.message for record in caplog.records]
    assert all(line.startswith("ERROR: configuration (config/config.yaml): ") for line in lines)
    return [line.removeprefix("ERROR: configuration (config/config.yaml): ") for line in lines]


FROZEN = "backbone: {train: false, name: resnet18, pretrained: true}"
OWN = "images: {source: metadata, folder: ., metadata: pyproject.toml, columns: {path: a, y: b, split: c}}"
WITH_OWN = "settings={mine: {base: minibirds, afr: null, dac: null, " + OWN + "}}"
UNCLIP = "unclip: {model: {name: a, revision: null}, prompts: [a, b]}"
CLIP = "backbone: {name: open_clip:ViT-B-32, pretrained: true}"
BIRDS = "settings/minibirds"
STANDARDIZED = "dac: {batchnorm: drift}, embeddings: {standardize: {scale: 1}}"
DRIFTING = f"settings={{minibirds: {{afr: null, {STANDARDIZED}, {FROZEN}}}}}"


def given(file: str, scale: str, method: str) -> str:
    """Of a dataset whose embeddings are there already."""
    files = f"{{train: pyproject.toml, val: {file}, test: pyproject.toml, standardize: {scale}}}"
    return f"datasets=[given]|methods=[erm, {method}]|settings={{given: {{base: minibirds, embeddings: {files}}}}}"


MISTAKES = {  # one of each kind: the classes' own bounds and rules are tested beside them
    "settings={minibirds: {hsfm: {inner_stpes: 3}}}": f"{BIRDS}/hsfm: unknown key 'inner_stpes'; did you mean 'inner_s",
    "settings={minibirds: {hard_set: {epochs: 3}}}": f"{BIRDS}/hard_set: unknown key 'epochs'; allowed are hard_per_cl",
    "settings={minibirds: {images: {folder: x}}}": f"{BIRDS}/images: unknown key 'folder'; allowed are source, sizes,",
    "seed=3": "unknown key 'seed'; did you mean 'seeds'?",
    "settings={minibirds: {hfsm: {}}}": f"{BIRDS}: unknown key 'hfsm'; did you mean 'hsfm'?",
    "settings={minibirds: {hsfm: {epochs: 0}}}": f"{BIRDS}/hsfm/epochs: expected greater than 0, got 0",
    "select_by=mean": "select_by: unknown value 'mean'; allowed are 'worst_group', 'worst_class', 'average', "
    "'inferred_group' or 'worst_value'",
    "settings={minibirds: {transform: modle}}": f"{BIRDS}/transform: expected a section, got modle",
    "settings={minibirds: {backbone: {pretrained: true}}}": f"{BIRDS}/backbone: small_resnet has no pretrained weights",
    "settings={minibirds: {transform: {mean: [99, 0, 0]}}}": f"{BIRDS}/transform/mean/0: expected less than or equal",
    "settings={minibirds: {transform: {resize: small}}}": f"{BIRDS}/transform/resize: expected a valid tuple, got smal",
    "settings={minibirds: {transform: {resize: [0]}}}": f"{BIRDS}/transform/resize/0: expected greater than 0, got 0",
    "settings={minibirds: {images: {source: birds}}}": f"{BIRDS}/images/source: unknown value 'birds'; allowed are 'ce",
    WITH_OWN.replace(", split: c", ""): "settings/mine/images/columns: missing key 'split'",
    "settings={mine: {}}": "settings/mine: missing key 'embeddings'",
    "settings={tables: {base: minibirds}}": "settings/tables: 'tables' cannot be the name of a dataset: ",
    "datasets=[waterbird]": "datasets: unknown dataset 'waterbird'; settings has minibirds",
    "runs=[0, 1, 0]": "runs: 0 comes twice",
    "methods=[erm, dfrr]": "methods/1: unknown value 'dfrr'; allowed are 'erm', 'afr', 'balance', 'cb_llr',",
    "methods=[erm, {few: {fits: 3}}]": "methods/1/few: missing key 'method'",
    "methods=[erm, {few: {method: dfr, fist: 3}}]": "methods/1/few: unknown key 'fist'; did you mean 'fits'?",
    "methods=[erm, {few: {method: dfr}, more: {method: dfr}}]": "methods/1: a variant is one name and its settings",
    "methods=[erm, {llr: {method: dfr}}]": "methods/1: 'llr' cannot be the name of a variant: something else is",
    "methods=[erm, {A/B: {method: dfr}}]": "methods/1: 'A/B' cannot be the name of a variant: lower case, digits",
    "methods=[erm, {hot: {method: dac}}]": "methods/1: variants are for methods on embeddings, but dac is trained on",
    "methods=[ddb]": f"{BIRDS}: missing key 'ddb', which methods asks for; ddb: null leaves it out",
    "studies=[ablations]|settings={minibirds: {hsfm: null}}": f"{BIRDS}/hsfm: missing or null, but the study ablations",
    f"settings={{minibirds: {{{FROZEN}}}}}": f"{BIRDS}/afr: needs a network that is trained here, on a part of the im",
    "settings={minibirds: {erm: {lr: null}}}": f"{BIRDS}/erm: lr is null, which is for pretrained weights, but",
    "settings={minibirds: {erm: {holdout: null}}}": f"{BIRDS}/erm: missing key 'holdout', which afr needs",
    DRIFTING: f"{BIRDS}/dac/batchnorm: drift moves the features, which",
    "settings={minibirds: {embeddings: {standardize: {scale: 1}}}}": f"{BIRDS}/embeddings/standardize: is for a frozen",
    "settings={minibirds: {afr: null, backbone: {checkpoint: no.pth}}}": f"{BIRDS}/backbone/checkpoint: no file no.pth",
    f"runs=[0, 1]|settings={{minibirds: {{afr: null, {FROZEN}}}}}": "runs: minibirds is not trained here and has one",
    given("no.npz", "null", "hsfm"): "settings/given/embeddings/val: no file no.npz",
    given(
        "README.md", "{scale: 1}", "hsfm"
    ): "settings/given/embeddings/standardize: is for a frozen backbone on images",
    given("README.md", "null", "dac"): "settings/given: has no images, which DaC needs; set dac to null",
    f"settings={{minibirds: {{{UNCLIP}}}}}": f"{BIRDS}/unclip: decodes embeddings of CLIP; set backbone/name to open",
    f"settings={{minibirds: {{{CLIP}, {UNCLIP}}}}}": f"{BIRDS}/unclip: decodes CLIP's own embeddings; set backbo",
}


@pytest.mark.parametrize(("setting", "message"), MISTAKES.items())
def test_a_mistake_is_one_line(caplog, setting, message):
    (line,) = mistakes(caplog, overlay(setting))
    assert line.startswith(message)


def test_all_mistakes_are_said_at_once(caplog):
    lines = mistakes(caplog, {"training_gpus": 2, "device": "cuda:1", "compute": {"compile": True}})
    assert lines == [
        "training_gpus: 2, but device: cuda:1 names one; set it to auto",
        "training_gpus: 2 and compute/compile exclude one another; set compile to false",
    ]


def test_an_attribute_that_is_unknown_is_asked_for_in_vain(caplog):
    """DFR trains on groups whatever picks its penalty; the others only where the worst group picks."""
    own = {**overlay(WITH_OWN), "datasets": ["mine"], "methods": ["erm", "dfr", "llr", "hsfm"]}
    lines = mistakes(caplog, own)
    assert lines == [
        "settings/mine/images/columns: no attribute, which dfr needs on validation",
        "settings/mine/images/columns: no attribute, which hsfm/select_by: worst_group needs on validation",
    ]
    caplog.clear()
    assert mistakes(caplog, {**own, "select_by": "worst_class"}) == lines[:1]


def test_texts_that_are_numbers_are_read_where_a_number_belongs():
    birds = {"hsfm": {"inner_lr": "5e-4"}, "erm": {"nesterov": "yes"}, "afr": "null", "llr": {"select_by": "null"}}
    methods = ["erm", "hsfm", {"few": {"method": "dfr", "fits": "3", "grid": ["1", "1e-2"]}}]
    whole = read_config({"runs": ["0", "1"], "methods": methods, "settings": {"minibirds": birds}})
    assert whole["runs"] == [0, 1]
    own = whole["settings"]["minibirds"]
    assert own["hsfm"]["inner_lr"] == 0.0005
    assert own["erm"]["nesterov"] is True
    assert own["afr"] is None
    assert own["llr"]["select_by"] == "worst_group"
    assert (own["few"]["fits"], own["few"]["grid"]) == (3, [1.0, 0.01])


def test_a_dataset_takes_what_it_does_not_say_from_its_base():
    images = yaml.safe_load((ROOT / "config/config.yaml").read_text())["settings"]["minibirds"]["images"]
    own = {"base": "minibirds", "images": images, "hsfm": {"outer_set": "random"}}
    whole = read_config({"settings": {"more": own, "most": {"base": "more", "images": images}}})["settings"]
    assert whole["most"]["hsfm"] == {**whole["minibirds"]["hsfm"], "outer_set": "random"}
    assert whole["minibirds"]["hsfm"]["outer_set"] == "hard"


def test_photographs_need_a_folder_and_a_table():
    """Settings that their overlay leaves to the backbone's family and to the machine have values in the end."""
    own = yaml.safe_load((ROOT / "config/photos.yaml").read_text())
    images = {"folder": ".", "metadata": "pyproject.toml"}
    found = read_config(merged(own, {"settings": {"photos": {"images": images}}}))
    erm = found["settings"]["photos"]["erm"]
    assert (erm["optimizer"], erm["lr"], erm["epochs"]) == ("sgd", 0.001, 10)
    assert 1 <= found["training_threads"] <= config.MOST_THREADS
    assert not found["settings"]["photos"]["augmentation"]["flip"], "text and digits stay readable"


def test_a_variant_differs_from_the_datasets_own_section_of_its_method():
    own = {
        "methods": ["erm", {"few": {"method": "dfr", "fits": 3}}, "dfr"],
        "settings": {"minibirds": {"dfr": {"grid": [1]}}},
    }
    whole = read_config(own)
    assert whole["methods"] == ["erm", "few", "dfr"]
    assert whole["variants"] == {"few": "dfr", "dfr": "dfr"}
    rows = whole["settings"]["minibirds"]
    assert rows["few"] == {**rows["dfr"], "fits": 3}
    assert rows["dfr"]["grid"] == [1.0]
    own["settings"]["minibirds"]["dfr"] = None
    rows = read_config({**own, "methods": [*own["methods"], "llr"]})["settings"]["minibirds"]
    assert rows["few"] is rows["dfr"] is None


def test_a_method_without_a_section_runs_with_its_defaults_and_a_section_may_be_lacking():
    given = dict.fromkeys(("train", "val", "test"), "pyproject.toml")
    settings = read_config({"settings": {"given": {"embeddings": given}}})["settings"]
    rows = settings["minibirds"]
    assert rows["dfr"] == {"select_by": "worst_group", **DFR(select_by="worst_group").model_dump(mode="json")}
    assert "ddb" not in rows, "it has no defaults that serve everybody"
    assert not {"images", "backbone", "transform", "erm", "edits", "unclip", "sweep"} & settings["given"].keys()


def test_the_rule_of_selection_is_the_methods_own_or_that_of_all():
    dfr = {"settings": {"minibirds": {"dfr": {"select_by": "average"}}}}
    for own, rules in (({"select_by": "worst_class", **dfr}, ["worst_class", "average", "worst_class"]),
                       ({}, ["worst_group", "worst_group", "worst_class"])):  # fmt: skip
        rows = read_config(own)["settings"]["minibirds"]
        assert [rows[name]["select_by"] for name in ("hsfm", "dfr", "llr")] == rules


@pytest.fixture
def validations(monkeypatch) -> list:
    """One entry for every validation."""
    calls, validated = [], schema.validated
    monkeypatch.setattr(schema, "validated", lambda *args: calls.append(args) or validated(*args))
    return calls


def test_a_configuration_is_validated_once_until_it_or_its_code_changes(validations, monkeypatch):
    first = read_config({"seeds": [3]})
    assert read_config({"seeds": [3]}) == first
    assert len(validations) == 1
    read_config({"seeds": [4]})
    assert len(validations) == 2
    monkeypatch.setattr(config, "hash_of", lambda *files: "other")
    read_config({"seeds": [4]})
    assert len(validations) == 3


def test_what_is_kept_may_be_damaged_or_impossible_to_write(validations, monkeypatch):
    first = read_config({})
    config.KEPT.write_text(config.KEPT.read_text()[:100])
    assert read_config({}) == first
    monkeypatch.setattr(config, "KEPT", config.KEPT / "below")  # a file is no folder
    assert read_config({}) == first
    assert len(validations) == 3


def test_files_are_looked_for_each_time(caplog, tmp_path, monkeypatch):
    (tmp_path / "mine.csv").touch()
    monkeypatch.chdir(tmp_path)
    own = overlay(WITH_OWN.replace("pyproject.toml", "mine.csv").replace("c}", "c, attribute: d}")) | {
        "datasets": ["mine"]
    }
    read_config(own)
    (tmp_path / "mine.csv").unlink()
    assert mistakes(caplog, own) == ["settings/mine/images/metadata: no file mine.csv"]


READ = """
import sys
sys.path.insert(0, "workflow")
from hsfm_workflow.config import read_config
read_config({"methods": ["erm", "dfr"]})
print(sorted({"pydantic", "sklearn", "torch"} & sys.modules.keys()))
"""


def test_the_second_reading_imports_nothing(tmp_path):
    folder = copy_repository(tmp_path / "hsfm")
    new = {"cwd": folder, "env": {**os.environ, "PYTHONPATH": str(folder)}, "text": True}  # no fork
    first, second = (subprocess.check_output([sys.executable, "-c", READ], **new).strip() for _ in range(2))
    assert "pydantic" in first
    assert second == "[]"


@pytest.mark.parametrize(
    ("bases", "message"),
    [
        ({"a": "b", "b": "a"}, "settings/a/base: 'a' is based on itself"),
        ({"a": "minibird"}, "settings/a/base: unknown dataset 'minibird'; settings has minibirds, a"),
        ({"a": 3}, "settings/a/base: unknown dataset 3; settings has minibirds, a"),
    ],
)
def test_a_base_that_is_none_is_named(caplog, bases, message):
    own = {"settings": {name: {"base": base} for name, base in bases.items()}}
    assert message in mistakes(caplog, own)


def test_defaults_are_not_changed_by_an_overlay():
    base, own = {"a": {"b": 1, "c": [2]}}, {"a": {"b": 3}, "d": 4}
    merged(base, own)["a"]["c"].append(5)
    assert merged(base, own) == {"a": {"b": 3, "c": [2]}, "d": 4}


def test_a_folder_that_takes_no_files_stops_it(tmp_path, monkeypatch, caplog):
    config.check_writable(str(tmp_path), str(tmp_path / "not there"))
    monkeypatch.setattr(config.os, "access", lambda *_: False)
    with caplog.at_level(logging.ERROR), pytest.raises(SystemExit):
        config.check_writable(str(tmp_path))
    assert "is read-only, but the workflow writes there" in caplog.text


def test_on_is_a_key_whatever_yaml_makes_of_it():
    read = read_config(
        {**overlay("methods=[erm, {both: {method: dfr, on: both}}]|settings={minibirds: {dfr: {on: train}}}")}
    )
    own = read["settings"]["minibirds"]
    assert (own["dfr"]["on"], own["both"]["on"]) == ("train", "both")


def test_a_method_takes_the_settings_of_the_one_that_it_is_like():
    own = read_config(overlay("settings={minibirds: {hsfm: {inner_lr: 0.01, epochs: 7}, tune: {epochs: 3}}}"))[
        "settings"
    ]
    assert (own["minibirds"]["tune"]["inner_lr"], own["minibirds"]["tune"]["epochs"]) == (0.01, 3)
    assert "outer_lr" not in own["minibirds"]["tune"]
