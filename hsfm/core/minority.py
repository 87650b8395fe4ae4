"""Minority groups: those whose attribute is rarer within their class than among all images."""

from typing import Any

from jaxtyping import Bool, Int


def is_minority(counts: Int[Any, "c a"]) -> Bool[Any, "c a"]:
    """By the number of training images of each class and attribute, a tensor or an array."""
    # p(a|y) < p(a), multiplied out so that equal shares compare as equal
    return counts * counts.sum() < counts.sum(1)[:, None] * counts.sum(0)[None]
