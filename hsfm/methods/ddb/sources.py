"""DDB's sources: the training images that ERM finds easiest, whose objects are replaced."""

import logging

import pandas as pd
from torch.nn.functional import cross_entropy

from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head

log = logging.getLogger(__name__)


def choose_sources(erm: Head, train: Embeddings, per_class: int) -> pd.DataFrame:
    """The training images of each class that have the lowest loss under ERM's head; all where there are fewer.

    Columns: image_id, y, loss, rank (from 1, within the class), in the order of classes and ranks.
    """
    train.refuse_test("DDB")
    loss = cross_entropy(erm.logits(train.features), train.y, reduction="none")
    rows = []
    for y in range(train.n_classes):
        own = (train.y == y).nonzero()[:, 0]
        chosen = own[loss[own].argsort(stable=True)][:per_class]
        if len(own) < per_class:
            log.warning("%s has %d training images, fewer than %d sources", train.class_names[y], len(own), per_class)
        for rank, row in enumerate(chosen.tolist(), start=1):
            rows.append({"image_id": train.image_id[row], "y": y, "loss": float(loss[row]), "rank": rank})
    return pd.DataFrame(rows)
