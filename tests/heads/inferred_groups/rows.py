"""Rows of one cloud per class, and of two."""

import numpy as np

LAWS = {
    "gaussian": lambda rng, size: rng.normal(size=size),
    "logistic": lambda rng, size: rng.logistic(size=size),
    "uniform": lambda rng, size: rng.uniform(-1.7, 1.7, size=size),
    "t5": lambda rng, size: rng.standard_t(5, size=size),
}


def one_cloud(name, seed, *, n=600, d=8, gap=3.0):
    """Features and classes; the classes lie `gap` apart on the first axis, and nothing else is there."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    x = LAWS[name](rng, (n, d))
    x[:, 0] += gap * (y - 0.5)
    return (x - x.mean(0)) / x.std(0), y


def two_clouds(gap, seed, *, n=800, d=8, minority=0.1, core=2.0, classes=2):
    """Features, classes, attributes: the attribute moves rows by `gap`, the class by `core`, obliquely."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    other = rng.uniform(size=n) < minority
    attribute = np.where(other, (y + rng.integers(1, classes, size=n)) % classes, y)
    x = rng.normal(size=(n, d))
    x[:, :classes] += gap / np.sqrt(2) * np.eye(classes)[attribute]
    x[:, 1 : classes + 1] += core / np.sqrt(2) * np.eye(classes)[y]
    return x - x.mean(0), y, attribute
