import logging
import re

import pytest
import yaml
from hsfm_workflow import ROOT, config, schema
from hsfm_workflow.config import in_order, merged, read_config

from hsfm.methods.dfr import Settings as DFR
from tests.repository import copy_repository, run_python


@pytest.fixture(autouse=True)
def _kept_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(config, "KEPT", tmp_path / "kept" / "configurations")


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
MISTAKES = {
    "settings={minibirds: {" + UNCLIP + "}}": (
        "settings/minibirds/unclip: decodes embeddings of CLIP; set backbone/name to open_clip:NAME"
    ),
    "settings={minibirds: {" + CLIP + ", " + UNCLIP + "}}": (
        "settings/minibirds/unclip: decodes CLIP's own embeddings; set backbone/pretrained to true and train to false"
    ),
    "settings={minibirds: {hsfm: {inner_stpes: 3}}}": (
        "settings/minibirds/hsfm: unknown key 'inner_stpes'; did you mean 'inner_steps'?"
    ),
    "settings={minibirds: {erm_head: {xyz: 3}}}": ("settings/minibirds/erm_head: unknown key 'xyz'; allowed are C"),
    "settings={minibirds: {hfsm: {}}}": "settings/minibirds: unknown key 'hfsm'; did you mean 'hsfm'?",
    "settings={minibirds: {hsfm: {epochs: 0}}}": (
        "settings/minibirds/hsfm/epochs: expected a whole number from 1, got 0"
    ),
    "settings={minibirds: {hsfm: {epochs: 1.5}}}": (
        "settings/minibirds/hsfm/epochs: expected a whole number from 1, got 1.5"
    ),
    "settings={minibirds: {hsfm: {inner_lr: fast}}}": (
        "settings/minibirds/hsfm/inner_lr: expected a number above 0, got 'fast'"
    ),
    "settings={minibirds: {hsfm: {inner_lr: true}}}": (
        "settings/minibirds/hsfm/inner_lr: expected a number above 0, got true"
    ),
    "settings={minibirds: {afr: {select_by: mean}}}": (
        "settings/minibirds/afr/select_by: unknown value 'mean'; allowed are worst_group, worst_class, average, null"
    ),
    "select_by=mean": "select_by: unknown value 'mean'; allowed are worst_group, worst_class, average",
    "settings={minibirds: {backbone: {name: resnet51}}}": (
        "settings/minibirds/backbone/name: unknown architecture 'resnet51'; did you mean "
    ),
    "settings={minibirds: {backbone: {pretrained: true}}}": (
        "settings/minibirds/backbone: small_resnet has no pretrained weights"
    ),
    "settings={minibirds: {transform: modle}}": "settings/minibirds/transform: expected a section, got 'modle'",
    "settings={minibirds: {transform: model}}": (
        "settings/minibirds/transform: model went; write what `python -m hsfm.models.clip small_resnet` prints"
    ),
    "settings={mine: {transform: model, backbone: 3}}": "settings/mine/transform: model went; write what `python -m",
    "settings=3": "settings: expected a section of sections by name, got 3",
    "settings={mine: 3}": "settings/mine: expected a section, got 3",
    "settings={minibirds: {transform: {resize: x}}}": (
        "settings/minibirds/transform/resize: expected a list of 1 to 2 whole numbers from 1, or null, got 'x'"
    ),
    "settings={minibirds: {transform: {resize: [0]}}}": (
        "settings/minibirds/transform/resize/0: expected a whole number from 1, got 0"
    ),
    "settings={minibirds: {transform: {mean: [0.5]}}}": (
        "settings/minibirds/transform/mean: expected a list of 3 numbers, got [0.5]"
    ),
    "settings={minibirds: {images: {source: birds}}}": (
        "settings/minibirds/images/source: unknown value 'birds'; allowed are celeba, dominoes, metadata, "
    ),
    "settings={mine: {base: minibirds, images: {source: celeba}}}": "settings/mine/images: missing key 'folder'",
    "settings={minibirds: {images: 3}}": "settings/minibirds/images: expected a section, got 3",
    "settings={minibirds: {images: {sizes: {train: 3}}}}": (
        "settings/minibirds/images/sizes/train: expected a whole number from 4 that 2 divides, got 3"
    ),
    WITH_OWN.replace(", split: c", ""): "settings/mine/images/columns: missing key 'split'",
    WITH_OWN.replace("metadata: pyproject.toml", "metadata: [x]"): (
        "settings/mine/images/metadata: expected a text, got [x]"
    ),
    "settings={minibirds: {augmentation: {random_crop: 4}}}": (
        "settings/minibirds/augmentation/random_crop: expected a section, or null, got 4"
    ),
    "settings={minibirds: {augmentation: {random_resized_crop: {size: [8, 8], scale: [1, 0.5], ratio: [1, 1]}}}}": (
        "settings/minibirds/augmentation/random_resized_crop/scale: [1.0, 0.5] is not the lowest, then the highest"
    ),
    "settings={Mine: {base: minibirds}}": "settings/Mine: 'Mine' cannot be the name of a dataset: lower case, ",
    "settings={tables: {base: minibirds}}": "settings/tables: 'tables' cannot be the name of a dataset: ",
    "datasets=[waterbird]": "datasets: unknown dataset 'waterbird'; settings has minibirds",
    "datasets=[]": "datasets: expected a list of 1 or more texts, none twice, got []",
    "runs=[0, 1, 0]": "runs: 0 comes twice",
    "methods=[erm, dfrr]": "methods/1: unknown value 'dfrr'; allowed are erm, afr, dac, ddb, dfr, hsfm, llr",
    "methods=[erm, dfr, dfr]": "methods: 'dfr' comes twice",
    "methods=[erm, {few: {method: dfrr}}]": "methods/1/few/method: unknown value 'dfrr'; allowed are afr, dac, ",
    "methods=[erm, {few: {fits: 3}}]": "methods/1/few: missing key 'method'",
    "methods=[erm, {few: {method: dfr, fist: 3}}]": "methods/1/few: unknown key 'fist'; did you mean 'fits'?",
    "methods=[erm, {few: {method: dfr, fits: 0}}]": "methods/1/few/fits: expected a whole number from 1, got 0",
    "methods=[erm, {few: {method: dfr}, more: {method: dfr}}]": "methods/1: a variant is one name and its settings",
    "methods=[erm, {llr: {method: dfr}}]": "methods/1: 'llr' cannot be the name of a variant: something else is",
    "methods=[erm, {images: {method: dfr}}]": "methods/1: 'images' cannot be the name of a variant: something else",
    "methods=[erm, {A/B: {method: dfr}}]": "methods/1: 'A/B' cannot be the name of a variant: lower case, digits",
    "methods=[erm, {hot: {method: dac}}]": "methods/1: variants are for methods on embeddings, but dac is trained on",
    "methods=[dfr, llr]|settings={minibirds: {dfr: null, llr: null}}": (
        "methods: dfr, llr alone, which minibirds leaves out (dfr: null, llr: null)"
    ),
    "device=gpu": "device: expected a text of the form `^(auto|cpu|cuda(:[0-9]+)?)$`, got 'gpu'",
    "settings={minibirds: {hsfm: {outer_lr: nan}}}": "settings/minibirds/hsfm/outer_lr: nan is not a finite number",
    "settings={minibirds: {erm: {momentum: 0}}}": "settings/minibirds/erm: nesterov is true, which needs a momentum",
    "settings={minibirds: {transform: {std: [0, 1, 1]}}}": (
        "settings/minibirds/transform/std/0: expected a number above 0, got 0"
    ),
    "settings={minibirds: {sweep: {values: {inner_lrs: [1]}}}}": (
        "settings/minibirds/sweep/values: unknown key 'inner_lrs'; did you mean 'inner_lr'?"
    ),
    "settings={minibirds: {sweep: {values: {inner_lr: []}}}}": "settings/minibirds/sweep/values/inner_lr: ",
    "studies=[sweeps]": "studies/0: unknown value 'sweeps'; allowed are sweep, ablations, validation_bias",
    "studies=[ablations]|settings={minibirds: {hsfm: null}}": (
        "settings/minibirds/hsfm: null, but the study ablations asks for it"
    ),
    "compute={precision: half}": "compute/precision: unknown value 'half'; allowed are auto, float32, bfloat16",
    "training_gpus=0": "training_gpus: expected a whole number from 1, got 0",
    "compute={compiled: true}": "compute: unknown key 'compiled'; did you mean 'compile'?",
    "settings={minibirds: {pixels: disk}}": "settings/minibirds/pixels: unknown value 'disk'; allowed are",
    "settings={minibirds: {pixels: null}}": "settings/minibirds/pixels: unknown value None; allowed are cached, files",
    "settings={minibirds: {masks: {cuts: [0.3, 0.8, 0.5]}}}": (
        "settings/minibirds/masks/cuts: [0.3, 0.8, 0.5] does not rise"
    ),
    "settings={minibirds: {masks: {fallback: 0.9}}}": "settings/minibirds/masks/fallback: 0.9 is not one of cuts, [",
    "settings={minibirds: {dac: {batchnorm: thaw}}}": (
        "settings/minibirds/dac/batchnorm: unknown value 'thaw'; allowed are frozen, drift"
    ),
    "settings={minibirds: {afr: null, dac: {batchnorm: drift}, embeddings: {standardize: {scale: 1}}, "
    + FROZEN
    + "}}": ("settings/minibirds/dac/batchnorm: drift moves the features, which"),
    "settings={minibirds: {" + FROZEN + "}}": (
        "settings/minibirds/afr: needs a network that is trained here, on a part of the images; set afr to null"
    ),
    "settings={minibirds: {erm: {holdout: 1}}}": (
        "settings/minibirds/erm/holdout: expected a number above 0 and below 1, or null, got 1"
    ),
    "settings={minibirds: {erm: {holdout: null}}}": "settings/minibirds/erm: missing key 'holdout', which afr needs",
    "methods=[ddb]": "settings/minibirds: missing key 'ddb', which methods asks for; ddb: null leaves it out",
    "settings={mine: {}}": "settings/mine: missing key 'embeddings'",
    "settings={minibirds: {backbone: {checkpoint: null}}, mine: {embeddings: {}, erm: {epochs: 3}}}": (
        "settings/mine/erm: missing keys 'batch_size', 'lr', 'momentum', "
    ),
    "settings={minibirds: {embeddings: {standardise: null}}}": (
        "settings/minibirds/embeddings/standardise: is called standardize now"
    ),
    "settings={minibirds: {edits: {neighbours: 5}}}": "settings/minibirds/edits/neighbours: is called neighbors now",
    "settings={minibirds: {ddb: {retrain: {select_by: worst_class}}}}": (
        "settings/minibirds/ddb/retrain/select_by: went to ddb/select_by"
    ),
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


def test_mistakes_of_variants_and_of_datasets_are_said_at_once(caplog):
    own = {"methods": [{"few": {"method": "dfr", "fist": 3}}], "settings": {"minibirds": {"afr": {"lr": 0, "step": 1}}}}
    assert mistakes(caplog, own) == [
        "settings/minibirds/afr/lr: expected a number above 0, got 0",
        "settings/minibirds/afr: unknown key 'step'; did you mean 'steps'?",
        "methods/0/few: unknown key 'fist'; did you mean 'fits'?",
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
    own = {"base": "minibirds", "images": images, "hsfm": {"epochs": 7}}
    whole = read_config({"settings": {"more": own, "most": {"base": "more", "images": images}}})["settings"]
    assert whole["most"]["hsfm"] == {**whole["minibirds"]["hsfm"], "epochs": 7}
    assert whole["minibirds"]["hsfm"]["epochs"] == 40


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


def test_a_method_without_a_section_runs_with_its_defaults():
    rows = read_config({})["settings"]["minibirds"]
    assert rows["dfr"] == {"select_by": "worst_group", **DFR(select_by="worst_group").model_dump(mode="json")}
    assert rows["hsfm"]["epochs"] == 40
    assert "ddb" not in rows, "it has no defaults that serve everybody"


def test_the_rule_of_selection_is_the_methods_own_or_that_of_all():
    dfr = {"settings": {"minibirds": {"dfr": {"select_by": "average"}}}}
    rows = read_config({"select_by": "worst_class", **dfr})["settings"]["minibirds"]
    assert [rows[name]["select_by"] for name in ("hsfm", "dfr", "llr")] == ["worst_class", "average", "worst_class"]
    rows = read_config({})["settings"]["minibirds"]
    assert [rows[name]["select_by"] for name in ("hsfm", "dfr", "llr")] == ["worst_group", "worst_group", "worst_class"]


def test_sections_that_a_dataset_lacks_are_left_out():
    given = dict.fromkeys(("train", "val", "test"), "pyproject.toml")
    whole = read_config({"settings": {"given": {"embeddings": given}}})["settings"]["given"]
    assert not {"images", "backbone", "transform", "erm", "edits", "unclip", "sweep"} & whole.keys()
    assert whole["erm_head"] == {"C": 0.1}


# Validated once -------------------------------------------------------------------------------------------------------


@pytest.fixture
def validations(monkeypatch) -> list:
    """One entry for every validation."""
    calls, validated = [], schema.validated
    monkeypatch.setattr(schema, "validated", lambda *args: calls.append(args) or validated(*args))
    return calls


def test_a_configuration_is_validated_once(validations):
    first = read_config({"seeds": [3]})
    assert read_config({"seeds": [3]}) == first
    assert len(validations) == 1
    read_config({"seeds": [4]})
    assert len(validations) == 2


def test_changed_code_validates_again(validations, monkeypatch):
    for code in ("one", "other"):
        monkeypatch.setattr(config, "hash_of", lambda *files, code=code: code)
        read_config({})
    assert len(validations) == 2


def test_what_is_kept_may_be_damaged_or_impossible_to_write(validations, monkeypatch):
    first = read_config({})
    (file,) = config.KEPT.glob("*.json")
    file.write_text(file.read_text()[:100])
    assert read_config({}) == first
    config.KEPT.parent.mkdir(exist_ok=True)
    monkeypatch.setattr(config, "KEPT", file)  # no folder, as little as a read-only one
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


def test_few_are_kept(monkeypatch):
    monkeypatch.setattr(config, "KEPT_NUMBER", 2)
    for seed in range(4):
        read_config({"seeds": [seed]})
    assert len(list(config.KEPT.glob("*.json"))) == 2


NEW_METHOD = """\"\"\"Mine, a method.\"\"\"

from pydantic import PositiveInt

from hsfm.heads.method_settings import MethodSettings

LABEL = "Mine"


class Settings(MethodSettings):
    steps: PositiveInt = 3


def fit(train, val, erm, *, settings, seeds, scorer): ...
"""
READ = """
import sys
sys.path.insert(0, "workflow")
from hsfm_workflow.config import read_config
print(read_config({"methods": ["erm", "mine"]})["settings"]["minibirds"]["mine"])
print(sorted({"pydantic", "sklearn", "torch"} & sys.modules.keys()))
"""


def test_a_method_is_a_file_dropped_in_and_the_second_reading_imports_nothing(tmp_path):
    folder = copy_repository(tmp_path / "hsfm")
    (folder / "hsfm/methods/mine.py").write_text(NEW_METHOD)
    printed = [run_python(READ, folder).splitlines() for _ in range(2)]
    settings = "{'select_by': 'worst_group', 'steps': 3}"
    assert printed == [[settings, "['pydantic', 'sklearn', 'torch']"], [settings, "[]"]]


# Parts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bases", "message"),
    [
        ({"a": "b", "b": "a"}, "settings/a/base: 'b' is based on 'a' in turn"),
        ({"a": "minibird"}, "settings/a/base: unknown dataset 'minibird'; settings has minibirds, a"),
        ({"a": 3}, "settings/a/base: 3 is not the name of a dataset"),
    ],
)
def test_a_base_that_is_none_is_named(caplog, bases, message):
    own = {"settings": {name: {"base": base} for name, base in bases.items()}}
    assert message in mistakes(caplog, own)


def test_defaults_are_not_changed_by_an_overlay():
    base, own = {"a": {"b": 1, "c": [2]}}, {"a": {"b": 3}, "d": 4}
    assert merged(base, own) == {"a": {"b": 3, "c": [2]}, "d": 4}
    merged(base, own)["a"]["c"].append(5)
    assert base == {"a": {"b": 1, "c": [2]}}


def test_keys_are_sorted_all_the_way_down():
    assert list(in_order({"b": {"d": 1, "c": 2}, "a": 3})) == ["a", "b"]
    assert list(in_order({"b": {"d": 1, "c": 2}})["b"]) == ["c", "d"]


def test_the_default_configuration_lies_beside_the_snakefile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert (tmp_path / config.config_file()).resolve() == ROOT / "config/config.yaml"
    assert re.search("^datasets:", (tmp_path / config.config_file()).read_text(), re.MULTILINE)


def test_a_folder_that_takes_no_files_stops_it(tmp_path, monkeypatch, caplog):
    config.check_writable(str(tmp_path), str(tmp_path / "not there"))
    monkeypatch.setattr(config.os, "access", lambda *_: False)
    with caplog.at_level(logging.ERROR), pytest.raises(SystemExit):
        config.check_writable(str(tmp_path))
    assert "is read-only, but the workflow writes there" in caplog.text
