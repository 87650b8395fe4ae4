"""HSFM: meta-learned edits of support features (arXiv 2603.29313).

`fit` is the method as the workflow runs it; `train` the meta-training, with `outer_loop` and `meta_gradient` as its
engine, and `kernels` as the same for two classes on the CPU, compiled; `support` its result as a file.
"""

from hsfm.methods.hsfm.fit import fit as fit
from hsfm.methods.hsfm.outer_loop import Settings as Settings

LABEL = "HSFM"
SOURCE = "Hard-Set-Guided Feature-Space Meta-Learning, ECCV 2026, arXiv 2603.29313"
COLOR = "#D55E00"
MARKER = "o"
DEVICE = True
NEEDS = ("hard_set",)
TABLES = ("history", "support", "hard_groups", "tried")
