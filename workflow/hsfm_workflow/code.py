"""Hashes of the code that a job runs: a script and every module of hsfm that it imports.

In `params` they rerun a job when its code changes, whatever the dates of files are: by the text alone, without
comments, formatting and docstrings. Package `__init__` files count by what a name re-exported there is defined in.
"""

import ast
import functools
import hashlib
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from snakemake.exceptions import WorkflowError

from hsfm.core.files import sha256, write_atomically
from hsfm_workflow import ROOT

KEPT = Path(".snakemake", "hsfm", "code.json")  # of every source text its digest and imports, by its hash


def code_of(name: str, *others: str) -> dict[str, str]:
    """Params of a rule: its script, and the hash of its code and of other modules or files that it depends on."""
    return {"script": name, "code": hash_of(f"workflow/scripts/{name}.py", *others)}


@functools.cache
def hash_of(*files: str) -> str:
    """Digest of scripts or modules by path below the repository, all modules they import, and other files as they are.

    Raises WorkflowError for an import by which the module behind a name cannot be known.
    """
    modules = sorted(closure(*(file for file in files if file.endswith(".py"))))
    lines = [f"{path.relative_to(ROOT)} {source(path)['digest']}" for path in modules]
    lines += [f"{file} {sha256(ROOT / file)}" for file in files if not file.endswith(".py")]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def closure(*files: str) -> set[Path]:
    """These files and all modules of the package that they import, directly or not."""
    found, waiting = set(), [ROOT / file for file in files]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [file for module, names in source(path)["imports"] for file in _found(path, module, names)]
    return found


def source(path: Path) -> dict:
    """Digest of a source file, and its imports from the package: a module and, of `from ... import`, the names."""
    text = path.read_text()
    key = hashlib.sha256(text.encode()).hexdigest()
    if key not in _parsed:
        tree = None if key in _known() else ast.parse(text, path)
        _parsed[key] = _known().get(key) or {"imports": list(imports_of(tree)), "digest": digest_of(tree)}
    return _parsed[key]


_parsed: dict[str, dict] = {}  # of this call


@functools.cache
def _known() -> dict[str, dict]:
    with suppress(OSError, ValueError):  # absent or damaged: everything is parsed again
        return json.loads(KEPT.read_text())
    return {}


def remember() -> None:
    """Keep what was parsed for the next call, beside Snakemake's own records."""
    _known.cache_clear()
    if _known().keys() != _parsed.keys():
        with suppress(OSError), write_atomically(KEPT) as temporary:  # read-only is another check's matter
            temporary.write_text(json.dumps(_parsed))


def digest_of(tree: ast.Module) -> str:
    """Digest of a syntax tree without docstrings, the same under every version of Python; `tree` loses them."""
    for node in ast.walk(tree):
        documented = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if documented and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(_as_text(tree).encode()).hexdigest()


def _as_text(node: object) -> str:
    """A syntax tree in words; empty fields are left out, since versions of Python differ in which there are."""
    if isinstance(node, ast.AST):
        fields = [f"{name}={_as_text(value)}" for name, value in ast.iter_fields(node) if value not in (None, [])]
        return f"{type(node).__name__}({', '.join(fields)})"
    return f"[{', '.join(map(_as_text, node))}]" if isinstance(node, list) else repr(node)


def imports_of(tree: ast.Module) -> Iterator[tuple[str, list[str]]]:
    """Imports from the package: a module and, of `from ... import`, the names."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names if alias.name.startswith("hsfm."))
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and (node.module or "").split(".")[0] == "hsfm":
            yield node.module, [alias.name for alias in node.names]


def _found(path: Path, module: str, names: list[str]) -> Iterator[Path]:
    """The modules that an import in `path` loads."""
    if _module(module).exists():
        yield _module(module)
        return
    for name in names:  # of a package: its modules and packages, or names that its __init__ takes from one
        found = _module(f"{module}.{name}")
        package = found.with_suffix("") / "__init__.py"
        if found.exists() or package.exists():
            yield found if found.exists() else package
        elif name in _reexported(module):
            yield _reexported(module)[name]
        elif name != "__version__":
            raise WorkflowError(f"{path}: import {name} from its module, so that jobs depend on that")


@functools.cache
def _reexported(package: str) -> dict[str, Path]:
    """Names that a package's __init__ imports, with the module that each comes from."""
    found = ((_module(module), names) for module, names in source(_module(f"{package}.__init__"))["imports"])
    return {name: module for module, names in found for name in names if module.exists()}


def _module(name: str) -> Path:
    return ROOT.joinpath(*name.split(".")).with_suffix(".py")
