"""DDB: a network retrained beside generated images of hard groups (diffusion driven balancing).

`generated` chooses what is changed, `prune` what is kept, `fit` retrains; the other modules generate images by
diffusion or by cut and paste.
"""

from hsfm.methods.ddb.fit import Settings as Settings
from hsfm.methods.ddb.fit import fit as fit

LABEL = "DDB"
SOURCE = "Yazdan Parast et al., DDB: Diffusion Driven Balancing, ICCV 2025, arXiv 2503.17226"
COLOR = "#CC79A7"
MARKER = "P"
FEATURES = "own_per_seed"
DEVICE = True
TABLES = ("history",)
IMAGES = True  # it trains on images, by rules of its own
