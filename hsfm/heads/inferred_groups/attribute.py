"""Attribute of validation rows inferred from features and classes, or the reason why it cannot be believed."""

import logging
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Int

from hsfm.features.embeddings import Embeddings, check_same_origin
from hsfm.heads.inferred_groups.groups import LEVEL, Found, find_groups

log = logging.getLogger(__name__)

# Of it, the guard's, whose false alarm takes wrong labels for a group, which costs tens of points: at the gate's level
# two on average (benchmarks/negative_controls.py). Real minorities of two images a class had p of 0.001 at most.
GUARD_SHARE = 0.2
FOLD_SEEDS = 7  # divisions into folds that the gate is measured on
LEAST = 2  # images of an inferred group


def doubt(found: Found, val: Embeddings, level: float = LEVEL) -> str:
    """The reason why the groups of val are not to be believed, in words; empty where they are. level: of the gate."""
    sizes = np.bincount(val.y.cpu().numpy() * val.n_classes + found.val, minlength=val.n_classes**2)
    if found.p_gate > level:
        return "the attribute shows no two clouds"
    if found.p_guard > GUARD_SHARE * level:
        return "the minority may be wrong labels"
    if sizes.min() < LEAST:
        return "an inferred group has fewer than two images"
    return ""


def with_attribute(rows: Embeddings, found: Int[np.ndarray, " n"]) -> Embeddings:
    """Rows with the attribute that was found, by the name of the class that it goes with."""
    return replace(rows, attribute=torch.from_numpy(found).to(rows.y.device), attribute_names=rows.class_names)


def infer_attribute(train: Embeddings, val: Embeddings, purpose: str) -> tuple[Embeddings, str]:
    """Val with its inferred attribute, and `doubt`, which a warning tells. purpose: what needs it, for the warning.

    No attribute of train or val is read. Raises ValueError for splits of different networks or classes.
    """
    check_same_origin(train, val)
    train, rows = (part.to(torch.device("cpu")) for part in (train, val))
    found = find_groups(train, rows, fold_seeds=FOLD_SEEDS)
    why = doubt(found, rows)
    if why:
        log.warning("%s: no groups inferred, %s", purpose, why)
    return with_attribute(val, found.val), why
