"""IDFR, DFR on inferred groups: no group label anywhere, and a validation split that may be as biased as train.

`fit` takes DFR on the groups of `hsfm.heads.inferred_groups` where these can be believed, or one of two fallbacks.
"""

from hsfm.methods.idfr.fit import Settings as Settings
from hsfm.methods.idfr.fit import fit as fit

LABEL = "IDFR"
SOURCE = "DFR (Kirichenko et al., ICLR 2023) on groups inferred by hsfm; not published"
TABLES = ("groups_found",)
