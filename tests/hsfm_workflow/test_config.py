import logging
import re

import pytest
import yaml
from hsfm_workflow import ROOT, config
from hsfm_workflow.config import in_order, merged, read_config


def overlay(setting: str) -> dict:
    """`--config KEY=VALUE` as a dict."""
    key, _, value = setting.partition("=")
    return {key: yaml.safe_load(value)}


def mistakes(caplog, own: dict) -> list[str]:
    """The lines of a refused configuration, each of which names its files."""
    with caplog.at_level(logging.ERROR), pytest.raises(SystemExit):
        read_config(own, ["config/config.yaml"])
    lines = [record.message for record in caplog.records]
    assert all(line.startswith("ERROR: configuration (config/config.yaml): ") for line in lines)
    return [line.removeprefix("ERROR: configuration (config/config.yaml): ") for line in lines]


MISTAKES = {
    "settings={minibirds: {hsfm: {inner_stpes: 3}}}": (
        "settings/minibirds/hsfm: unknown key 'inner_stpes'; did you mean 'inner_steps'?"
    ),
    "settings={minibirds: {hsfm: {epochs: 0}}}": "settings/minibirds/hsfm/epochs: 0 is less than the minimum of 1",
    "settings={minibirds: {hsfm: {inner_lr: fast}}}": (
        "settings/minibirds/hsfm/inner_lr: 'fast' is not of type 'number'"
    ),
    "settings={minibirds: {backbone: {name: resnet51}}}": (
        "settings/minibirds/backbone/name: unknown architecture 'resnet51'; did you mean "
    ),
    "settings={minibirds: {backbone: {pretrained: true}}}": (
        "settings/minibirds/backbone: small_resnet has no pretrained weights"
    ),
    "settings={minibirds: {transform: modle}}": "settings/minibirds/transform: 'modle' is not of type 'object'",
    "settings={minibirds: {transform: model}}": (
        "settings/minibirds/transform: model went; write what `python -m hsfm.models.clip small_resnet` prints"
    ),
    "settings={minibirds: {transform: {resize: x}}}": (
        "settings/minibirds/transform/resize: 'x' is not of type 'array', or null"
    ),
    "settings={minibirds: {images: {source: birds}}}": (
        "settings/minibirds/images/source: unknown value 'birds'; allowed are minibirds"
    ),
    "settings={minibirds: {augmentation: {random_crop: 4}}}": (
        "settings/minibirds/augmentation/random_crop: 4 is not of type 'object', or null"
    ),
    "datasets=[waterbird]": "datasets: unknown dataset 'waterbird'; settings has minibirds",
    "methods=[erm, dfrr]": "methods/1: unknown value 'dfrr'; allowed are erm, dfr, llr, afr, dac, ddb, hsfm",
    "device=gpu": "device: 'gpu' does not match",
    "settings={minibirds: {hsfm: {outer_lr: nan}}}": "settings/minibirds/hsfm/outer_lr: nan is not a finite number",
    "settings={minibirds: {erm: {momentum: 0}}}": "settings/minibirds/erm: nesterov is true, which needs a momentum",
    "settings={minibirds: {transform: {std: [0, 1, 1]}}}": "settings/minibirds/transform/std/0: 0 is less than",
    "settings={minibirds: {sweep: {values: {inner_lrs: [1]}}}}": (
        "settings/minibirds/sweep/values: unknown key 'inner_lrs'; did you mean 'inner_lr'?"
    ),
    "settings={minibirds: {sweep: {values: {inner_lr: []}}}}": "settings/minibirds/sweep/values/inner_lr: [] ",
    "studies=[sweeps]": "studies/0: unknown value 'sweeps'; allowed are sweep, ablations, validation_bias",
    "compute={precision: half}": "compute/precision: unknown value 'half'; allowed are auto, float32, bfloat16",
    "training_gpus=0": "training_gpus: 0 is less than the minimum of 1",
    "compute={compiled: true}": "compute: unknown key 'compiled'; did you mean 'compile'?",
    "settings={minibirds: {pixels: disk}}": "settings/minibirds/pixels: unknown value 'disk'; allowed are",
    "settings={minibirds: {masks: {cuts: [0.3, 0.8, 0.5]}}}": (
        "settings/minibirds/masks/cuts: [0.3, 0.8, 0.5] does not rise"
    ),
    "settings={minibirds: {masks: {fallback: 0.9}}}": "settings/minibirds/masks/fallback: 0.9 is not one of cuts, [",
    "settings={minibirds: {dac: {batchnorm: thaw}}}": (
        "settings/minibirds/dac/batchnorm: unknown value 'thaw'; allowed are frozen, drift"
    ),
    "settings={minibirds: {afr: null, dac: {batchnorm: drift}, embeddings: {standardise: {scale: 1}}, backbone: {train:"
    " false, name: resnet18, pretrained: true}}}": "settings/minibirds/dac/batchnorm: drift moves the features, which",
    "settings={minibirds: {backbone: {train: false, name: resnet18, pretrained: true}}}": (
        "settings/minibirds/afr: needs a network that is trained here, on a part of the images; set afr to null"
    ),
    "settings={minibirds: {erm: {holdout: 1}}}": (
        "settings/minibirds/erm/holdout: 1 is greater than or equal to the maximum of 1"
    ),
    "methods=[ddb]": "settings/minibirds: missing key 'ddb', which methods asks for; ddb: null leaves it out",
    "settings={mine: {}}": "settings/mine: missing keys 'embeddings', 'hard_set'",
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


def test_texts_that_are_numbers_are_read_where_a_number_belongs():
    own = {"runs": ["0", "1"], "settings": {"minibirds": {"hsfm": {"inner_lr": "5e-4"}, "erm": {"nesterov": "yes"}}}}
    whole = read_config(own)
    assert whole["runs"] == [0, 1]
    assert whole["settings"]["minibirds"]["hsfm"]["inner_lr"] == 0.0005
    assert whole["settings"]["minibirds"]["erm"]["nesterov"] is True


def test_a_dataset_takes_what_it_does_not_say_from_its_base():
    images = yaml.safe_load((ROOT / "config/config.yaml").read_text())["settings"]["minibirds"]["images"]
    own = {"base": "minibirds", "images": images, "hsfm": {"epochs": 7}}
    whole = read_config({"settings": {"more": own, "most": {"base": "more", "images": images}}})["settings"]
    assert whole["most"]["hsfm"] == {**whole["minibirds"]["hsfm"], "epochs": 7}
    assert whole["minibirds"]["hsfm"]["epochs"] == 40


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
