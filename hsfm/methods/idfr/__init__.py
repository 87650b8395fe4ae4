"""IDFR, DFR on inferred groups: no group label anywhere, and a validation split that may be as biased as train.

`infer` finds the attribute, `two_clouds` and `guard` test whether to believe it, `groups` brings them together; `fit`
takes DFR on inferred groups, or one of two fallbacks.
"""

from hsfm.methods.idfr.fit import Settings as Settings
from hsfm.methods.idfr.fit import fit as fit

LABEL = "IDFR"
SOURCE = "DFR (Kirichenko et al., ICLR 2023) on groups inferred by hsfm; not published"
TABLES = ("groups_found",)
