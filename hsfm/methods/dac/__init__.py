"""DaC: a head retrained on images recomposed of causal and other parts.

`fit` is the method; `heat_maps` and `find_masks` find the parts, and `masks` are their files.
"""

from hsfm.methods.dac.fit import Settings as Settings
from hsfm.methods.dac.fit import fit as fit

LABEL = "DaC"
SOURCE = "Noohdani et al., Decompose-and-Compose, CVPR 2024"
COLOR = "#009E73"
MARKER = "v"
FEATURES = "erm"  # a network per seed where BatchNorm drifts
DEVICE = True
NEEDS = ("masks",)
TABLES = ("history",)
IMAGES = True  # it trains on images, by rules of its own
