"""Python that the rules need: configuration, plan, code hashes, resources; imported by the Snakefile alone.

May import Snakemake and hsfm. Nothing in hsfm/ knows of it, and no script imports it.
"""

from pathlib import Path

ROOT = Path(__file__).parents[2]  # of the repository, also where another workflow uses it as a module
SPLITS = ("train", "val", "test")
SOURCES_IN_ARRAYS = ("minibirds", "dominoes")  # of datasets whose images are packed into one array
