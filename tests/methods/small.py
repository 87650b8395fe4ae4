"""Every method on embeddings with settings that take a moment, and what tests ask of their heads."""

from importlib import import_module

from sklearn.linear_model import LogisticRegression

from hsfm.core.metrics import accuracy_by, worst
from hsfm.heads.hard_set import build

SMALL = {  # a method that is not here runs with its defaults
    "dfr": {"grid": (1.0, 0.1), "fits": 2},
    "llr": {"grid": (1.0, 0.1)},
    "cb_llr": {"grid": (1.0, 0.1), "fits": 2},
    "tune": {"inner_steps": 3, "inner_lr": 1e-2, "epochs": 4},
    "group_dro": {"penalties": (0.0, 0.1), "steps": 40, "lr": 0.02},
    "jtt": {"upweights": (2, 20), "penalties": (0.1, 0.01)},
    "evals": {"sizes": (10, 50), "penalties": (0.1, 0.01)},
    "selective": {"sizes": (10, 50), "lrs": (0.001, 0.01), "steps": 50},
    "idfr": {"grid": (1.0, 0.1), "fits": 2, "fold_seeds": 3, "gammas": (0, 4), "penalties": (1, 0.1)},
    "afr": {"gammas": (4, 10), "penalties": (0.0, 0.2), "steps": 20, "lr": 0.5},
    "hsfm": {"support_per_class": 16, "inner_steps": 3, "inner_lr": 1e-2, "outer_lr": 0.1, "support_steps": 3,
             "epochs": 4},
}  # fmt: skip


def settings_of(name, **changes):
    return import_module(f"hsfm.methods.{name}").Settings(**SMALL.get(name, {}) | changes)


def needs_of(method, erm, val):
    """Inputs that the module's NEEDS names."""
    needs = {"hard_set": lambda: build(erm, val, per_class=30)}
    return {name: needs[name]() for name in getattr(method, "NEEDS", ())}


def worst_group(head, part):
    """The accuracy of the worst group, the worst of all heads."""
    return float(worst(accuracy_by(head.predict(part.features) == part.y, part.group, part.n_groups)).min())


def scikit_learns(c):
    return LogisticRegression(C=c, l1_ratio=1, solver="liblinear", max_iter=1000, random_state=0)
