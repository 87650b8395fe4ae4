import importlib

import pytest

from hsfm.heads import known_methods as methods
from hsfm.heads.known_methods import ROOT, found

COMPLETE = 'LABEL = "Mine"\n\nclass Settings: ...\n\ndef fit(train, val, erm): ...\n'


def one(folder, text: str, name: str = "mine.py"):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)
    return found(folder)["mine"]


def test_a_file_dropped_in_is_a_method(tmp_path):
    method = one(tmp_path, COMPLETE)
    assert (method.name, method.label, method.features, method.device) == ("mine", "Mine", "erm", False)
    assert (method.tables, method.needs, method.images, method.color) == ((), (), False, None)


def test_constants_are_read_without_running_the_file(tmp_path):
    constants = 'FEATURES = "own"\nDEVICE: bool = True\nTABLES = ["history"]\nNEEDS = ("hard_set",)\n'
    method = one(tmp_path, f"raise SystemExit\n{COMPLETE}{constants}")
    assert (method.features, method.device, method.tables, method.needs) == ("own", True, ("history",), ("hard_set",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (COMPLETE.replace("LABEL", "label"), "mine.py: a method needs a LABEL, besides Settings and fit"),
        (COMPLETE + "TABLES = names()", "mine.py:6: TABLES is not written out as a literal"),
        (COMPLETE + 'FEATURES = "its"', "mine.py:6: FEATURES is 'its'; allowed are erm, own, own_per_seed"),
        ("LABEL =", "mine.py: invalid syntax"),
    ],
)
def test_a_file_that_is_no_method_is_named(tmp_path, text, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        one(tmp_path, text)


def test_methods_are_in_one_order_whatever_the_folder_says(tmp_path):
    for name in ("zeta.py", "alpha.py", "_shared.py"):
        (tmp_path / name).write_text(COMPLETE)
    (tmp_path / "beta").mkdir()
    (tmp_path / "beta/__init__.py").write_text(COMPLETE)
    assert list(found(tmp_path)) == ["alpha", "beta", "zeta"]


def test_every_method_says_what_its_module_holds():
    assert {"afr", "dac", "ddb", "dfr", "hsfm", "llr"} <= found().keys()
    for name, method in found().items():
        module = importlib.import_module(f"hsfm.methods.{name}")
        assert issubclass(module.Settings, importlib.import_module("hsfm.heads.method_settings").MethodSettings)
        assert (ROOT / method.path).is_file()
        for constant, field in methods.CONSTANTS.items():
            assert getattr(method, field) == getattr(module, constant, getattr(method, field))
