"""Published image counts of the datasets, per split and group."""

import numpy as np
import pandas as pd

from hsfm.data.table import Listing, group_name

_WATERBIRDS = ["landbird, land", "landbird, water", "waterbird, land", "waterbird, water"]
_CELEBA = ["dark, female", "dark, male", "blond, female", "blond, male"]
_METASHIFT = ["cat, sofa", "cat, bed", "dog, bench", "dog, bike"]
_HELD_OUT = ["cat, shelf", "dog, shelf"]
# of Dominoes, the share of images whose digit agrees with the class
AGREEMENT = {"train": 0.9, "val": 0.5, "test": 0.5}
_DOMINOES = ["automobile, 0", "automobile, 1", "truck, 0", "truck, 1"]

PUBLISHED = {  # by dataset, split and group
    "waterbirds": {
        "train": dict(zip(_WATERBIRDS, (3498, 184, 56, 1057), strict=True)),
        "val": dict(zip(_WATERBIRDS, (467, 466, 133, 133), strict=True)),
        "test": dict(zip(_WATERBIRDS, (2255, 2255, 642, 642), strict=True)),
    },
    "celeba": {
        "train": dict(zip(_CELEBA, (71629, 66874, 22880, 1387), strict=True)),
        "val": dict(zip(_CELEBA, (8535, 8276, 2874, 182), strict=True)),
        "test": dict(zip(_CELEBA, (9767, 7535, 2480, 180), strict=True)),
    },
    "metashift": {
        "train": dict(zip(_METASHIFT, (231, 380, 145, 367), strict=True)),
        "val": dict(zip(_HELD_OUT, (34, 47), strict=True)),
        "test": dict(zip(_HELD_OUT, (201, 259), strict=True)),
    },
    "dominoes": {"test": dict.fromkeys(_DOMINOES, 490)},  # train and val are what a random split leaves
}


def check_counts(name: str, listing: Listing) -> None:
    """Raise ValueError with the published and the found numbers side by side if they differ.

    name: waterbirds, celeba, metashift or dominoes.
    """
    rows = listing.rows
    groups = [group_name(listing, y, attribute) for y, attribute in zip(rows["y"], rows["attribute"], strict=True)]
    table = beside_published(name, rows.assign(group=groups).value_counts(["split", "group"]))
    if (table["expected"] != table["found"]).any():
        raise ValueError(
            f"{name}: the images are not those that were published, by their numbers per split and group\n{table}\n"
            "If that is meant, allow_other_counts: true in the dataset's settings accepts it."
        )


def beside_published(name: str, found: pd.Series) -> pd.DataFrame:
    """Columns expected and found, images by split and group.

    found: images by split and group. What a random split leaves is expected as it was found, but with the agreement
    that was published.
    """
    sizes = {split: pd.Series(of) for split, of in PUBLISHED[name].items()}
    for split in ("train", "val") if name == "dominoes" else ():
        own = found[split].reindex(_DOMINOES, fill_value=0) if split in found else pd.Series(0, _DOMINOES)
        sizes[split] = pd.Series(_agreeing(own.to_numpy(), AGREEMENT[split]), _DOMINOES)
    expected = pd.concat(sizes, names=["split", "group"])
    found = found[found.index.get_level_values("split").isin(sizes)]
    return pd.DataFrame({"expected": expected, "found": found}).fillna(0).astype(int)


def _agreeing(found: np.ndarray, share: float) -> np.ndarray:
    """Numbers of the four groups, each class as large as it was found, with this share of digits that agree.

    One image of a group more or less, which is a matter of rounding, is expected as it was found.
    """
    n = found.reshape(2, 2).sum(1)
    rarer = (n * (1 - share)).astype(int)
    expected = np.array([n[0] - rarer[0], rarer[0], rarer[1], n[1] - rarer[1]])
    return np.where(np.abs(expected - found) <= 1, found, expected)
