"""HSFM's settings in config/paper.yaml."""

from pathlib import Path

import yaml

from hsfm.heads.hard_set import HardSetSettings
from hsfm.methods.hsfm import Settings

FILE = Path(__file__).parents[1] / "config" / "paper.yaml"


def settings_of(dataset: str) -> tuple[Settings, int]:
    """HSFM's settings on one of the paper's datasets, and K_hard."""
    own = yaml.safe_load(FILE.read_text())["settings"][dataset]
    return Settings(**own["hsfm"]), HardSetSettings(**own["hard_set"]).hard_per_class
