"""Evenly spaced choice among many rows."""

import numpy as np
from jaxtyping import Int


def evenly_spaced(n: int, most: int) -> Int[np.ndarray, " k"]:
    """At most `most` of the numbers from 0 to n - 1, both ends among them."""
    return np.unique(np.linspace(0, n - 1, most).round().astype(int))
