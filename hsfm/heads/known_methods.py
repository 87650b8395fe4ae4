"""Methods found in hsfm/methods/ and their constants, read without importing them."""

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "methods"
ROOT = FOLDER.parents[1]  # of the repository
REQUIRED = ("LABEL", "Settings", "fit")
ALLOWED = {"FEATURES": ("erm", "own", "own_per_seed")}


@dataclass(frozen=True)
class Method:
    """A method as its module declares it; every field below `path` is a constant there, in capitals."""

    name: str  # of its file or folder, in the configuration and in results/
    path: str  # of its module, below the repository
    label: str  # in tables and figures
    source: str = ""  # the publication
    features: str = "erm"  # whose embeddings its heads are for: erm, own, own_per_seed
    device: bool = False  # whether it asks for a GPU
    tables: tuple[str, ...] = ()  # that it leaves beside its heads
    needs: tuple[str, ...] = ()  # further inputs of its fit
    images: bool = False  # whether it reads images
    color: str | None = None
    marker: str | None = None


CONSTANTS = {field.name.upper(): field.name for field in fields(Method) if field.name not in ("name", "path")}


@functools.cache
def found(folder: Path = FOLDER) -> dict[str, Method]:
    """Methods by name, in alphabetical order.

    A method is a module of `folder`, or a package, that does not start with an underscore. Raises ValueError that
    names the file where one lacks LABEL, Settings or fit, or has a constant that is not written out.
    """
    modules = [path for path in folder.glob("*.py") if not path.name.startswith("_")]
    packages = [path for path in folder.glob("*/__init__.py") if not path.parent.name.startswith("_")]
    by_name = {**{path.stem: path for path in modules}, **{path.parent.name: path for path in packages}}
    return {name: _read(name, by_name[name]) for name in sorted(by_name)}


def _read(name: str, path: Path) -> Method:
    """The constants of one module."""
    shown = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    try:
        body = ast.parse(path.read_text(), path).body
    except SyntaxError as error:
        raise ValueError(f"{shown}: {error}") from error
    modules = {other.stem for other in path.parent.glob("*.py")} if path.name == "__init__.py" else set()
    missing = [name for name in REQUIRED if name not in {*_names(body), *modules}]
    if missing:
        raise ValueError(f"{shown}: a method needs LABEL, Settings and fit; missing: {', '.join(missing)}")
    return Method(name, shown, **{CONSTANTS[key]: value for key, value in _constants(body, shown)})


def _names(body: list[ast.stmt]) -> Iterator[str]:
    """Names that a module defines or imports."""
    for node in body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            yield from (target.id for target in _targets(node) if isinstance(target, ast.Name))


def _constants(body: list[ast.stmt], path: str) -> Iterator[tuple[str, object]]:
    """Names and values of the constants that a module sets; lists become tuples."""
    for node in body:
        names = [target.id for target in _targets(node) if isinstance(target, ast.Name)]
        for name in (name for name in names if name in CONSTANTS):
            try:
                value = ast.literal_eval(node.value)
            except ValueError as error:
                raise ValueError(f"{path}:{node.lineno}: {name} is not written out as a literal") from error
            if name in ALLOWED and value not in ALLOWED[name]:
                raise ValueError(f"{path}:{node.lineno}: {name} is {value!r}; allowed are {', '.join(ALLOWED[name])}")
            yield name, tuple(value) if isinstance(value, list) else value


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) and node.value is not None else []
