"""Alias of HSFM's engine under its name in 0.1, `hsfm.meta.train`."""

from hsfm.methods.hsfm.train import train as train
