import pytest
from hsfm_workflow import ROOT, code
from snakemake.exceptions import WorkflowError

FILES = {
    "hsfm/__init__.py": "from hsfm.a import f\n",
    "hsfm/a.py": '"""A module."""\n\n\ndef f():\n    """Return one."""\n    return 1\n',
    "hsfm/b.py": "import hsfm.a\n",
    "hsfm/room/__init__.py": '"""A room."""\nfrom hsfm.room.inner import h\n',
    "hsfm/room/inner.py": "def h():\n    return 2\n",
    "hsfm/room/other.py": "x = 3\n",
    "hsfm/style.txt": "style\n",
    "workflow/scripts/one.py": "from hsfm import b\n",
    "workflow/scripts/two.py": "def work():\n    from hsfm.room import h, other\n",
    "workflow/scripts/three.py": "from hsfm.room import nothing\n",
}


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A small repository."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    forget()


def forget() -> None:
    """Be as a new process, which knows nothing."""
    for cached in (code._known, code._reexported, code.hash_of):
        cached.cache_clear()
    code._parsed.clear()


def digest(*files: str) -> str:
    forget()
    return code.hash_of(*files)


def closure(script: str) -> list[str]:
    forget()
    return sorted(str(path.relative_to(code.ROOT)) for path in code.closure(script))


def test_the_closure_holds_what_is_imported_directly_or_not(clone):
    assert closure("workflow/scripts/one.py") == ["hsfm/a.py", "hsfm/b.py", "workflow/scripts/one.py"]


def test_a_reexported_name_stands_for_the_module_that_defines_it(clone):
    two = "workflow/scripts/two.py"
    assert closure(two) == ["hsfm/room/inner.py", "hsfm/room/other.py", two]
    (clone / "hsfm/room/__init__.py").write_text("from hsfm.a import h\n")
    assert closure(two)[0] == "hsfm/a.py", "also where the importing file is the same"


def test_a_name_without_a_module_is_refused(clone):
    with pytest.raises(WorkflowError, match=r"three\.py: import nothing from its module, so that jobs depend on that"):
        digest("workflow/scripts/three.py")


@pytest.mark.parametrize(
    ("file", "text", "same"),
    [
        ("hsfm/a.py", '"""In other words."""\n\n# a comment\ndef f( ):\n    """Return 1."""\n    return 1\n', True),
        ("hsfm/a.py", "def f():\n    return 2\n", False),
        ("hsfm/__init__.py", "", True),
        ("hsfm/room/other.py", "x = 4\n", True),
        ("hsfm/style.txt", "another\n", False),
    ],
)
def test_the_hash_changes_with_what_the_code_does(clone, file, text, same):
    before = digest("workflow/scripts/one.py", "hsfm/style.txt")
    (clone / file).write_text(text)
    assert (digest("workflow/scripts/one.py", "hsfm/style.txt") == before) == same


def test_what_was_parsed_is_kept_and_a_damaged_record_is_made_anew(clone, monkeypatch):
    first = digest("workflow/scripts/one.py")
    code.remember()
    code.KEPT.write_text("{")
    assert digest("workflow/scripts/one.py") == first
    code.remember()
    monkeypatch.setattr(code, "digest_of", lambda *_: pytest.fail("parsed again"))
    assert digest("workflow/scripts/one.py") == first


def test_every_script_of_the_workflow_has_a_hash():
    for path in (ROOT / "workflow/scripts").glob("*.py"):
        assert len(code.code_of(path.stem)["code"]) == 16
