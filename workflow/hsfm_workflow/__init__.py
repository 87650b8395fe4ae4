"""Python that the rules need: configuration, plan, code hashes, resources; imported by the Snakefile alone.

May import Snakemake and hsfm. Nothing in hsfm/ knows of it, and no script imports it.
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the repository, also where another workflow uses it as a module
SPLITS = ("train", "val", "test")
_SOURCES = {path.stem: path for path in sorted((ROOT / "hsfm/data/sources").glob("[a-z]*.py"))}
SOURCES = tuple(_SOURCES)  # of images, a module each
SOURCES_IN_ARRAYS = tuple(name for name, path in _SOURCES.items() if "\ndef pack(" in path.read_text())  # not in files
