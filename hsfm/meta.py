"""`hsfm.meta.train`, the name of HSFM's engine in 0.1."""

from hsfm.methods.hsfm.train import train as train
