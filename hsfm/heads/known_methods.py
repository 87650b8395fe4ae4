"""Methods found in hsfm/methods/ and their constants, read without importing them."""

import ast
import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "methods"
ROOT = FOLDER.parents[1]  # of the repository
FEATURES = ("erm", "own", "own_per_seed")


@dataclass(frozen=True)
class Method:
    """A method as its module declares it; every field below `path` is a constant there, in capitals."""

    name: str  # of its file or folder, in the configuration and in results/
    path: str  # of its module, below the repository
    label: str  # in tables and figures
    source: str = ""  # the publication
    # whose embeddings its heads are for: erm, own, own_per_seed; or one of these by its setting `on`
    features: str | dict[str, str] = field(default="erm", hash=False)
    device: bool = False  # whether it asks for a GPU
    tables: tuple[str, ...] = ()  # that it leaves beside its heads
    needs: tuple[str, ...] = ()  # further inputs of its fit
    extra: tuple[str, ...] = ()  # names in val's `Embeddings.extra` that it needs
    like: str | None = None  # the method whose settings serve where it has none of its own
    images: bool = False  # whether it reads images
    color: str | None = None
    marker: str | None = None

    @property
    def estimator(self) -> str:
        """Name of its scikit-learn classifier in `hsfm.deploy.estimators`."""
        words = re.findall(r"[^\W_]+", self.label)
        return "".join(word[0].upper() + word[1:] for word in words) + "Classifier"

    def features_under(self, settings: Mapping[str, Any]) -> str:
        """Whose features its heads are for under these settings: erm, own, own_per_seed."""
        return self.features if isinstance(self.features, str) else self.features[settings["on"]]


CONSTANTS = {field.name.upper(): field.name for field in fields(Method) if field.name not in ("name", "path")}


@functools.cache
def found(folder: Path = FOLDER) -> dict[str, Method]:
    """Methods by name, in alphabetical order.

    They are modules and packages whose names start with no underscore. Raises ValueError naming the file where one
    lacks LABEL, or has a constant that is not written out.
    """
    by_name = {path.stem: path for path in folder.glob("*.py")}
    by_name |= {path.parent.name: path for path in folder.glob("*/__init__.py")}
    return {name: _read(name, path) for name, path in sorted(by_name.items()) if not name.startswith("_")}


def _read(name: str, path: Path) -> Method:
    shown = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
    try:
        body = ast.parse(path.read_text(), path).body
    except SyntaxError as error:
        raise ValueError(f"{shown}: {error}") from error
    constants = {}
    for node in body:
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        constant = next((target.id for target in targets if isinstance(target, ast.Name)), None)
        if constant not in CONSTANTS:
            continue
        try:
            value = ast.literal_eval(node.value)
        except ValueError as error:
            raise ValueError(f"{shown}:{node.lineno}: {constant} is not written out as a literal") from error
        if constant == "FEATURES" and not {*(value.values() if isinstance(value, dict) else [value])} <= {*FEATURES}:
            raise ValueError(f"{shown}:{node.lineno}: FEATURES is {value!r}; allowed are {', '.join(FEATURES)}")
        constants[CONSTANTS[constant]] = tuple(value) if isinstance(value, list) else value
    if "label" not in constants:
        raise ValueError(f"{shown}: a method needs a LABEL, besides Settings and fit")
    return Method(name, shown, **constants)
