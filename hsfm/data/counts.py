"""Published image counts of the datasets, per split and group."""

import pandas as pd

from hsfm.data.table import Listing, group_name

_WATERBIRDS = ["landbird, land", "landbird, water", "waterbird, land", "waterbird, water"]
_CELEBA = ["dark, female", "dark, male", "blond, female", "blond, male"]
_METASHIFT = ["cat, sofa", "cat, bed", "dog, bench", "dog, bike"]
_HELD_OUT = ["cat, shelf", "dog, shelf"]
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
    published, rows = PUBLISHED[name], listing.rows
    groups = [group_name(listing, y, attribute) for y, attribute in zip(rows["y"], rows["attribute"], strict=True)]
    found = rows.assign(group=groups)[rows["split"].isin(published)].value_counts(["split", "group"])
    expected = pd.concat({split: pd.Series(sizes) for split, sizes in published.items()}, names=["split", "group"])
    table = pd.DataFrame({"expected": expected, "found": found}).fillna(0).astype(int)
    if (table["expected"] != table["found"]).any():
        raise ValueError(
            f"{name}: the images are not those that were published, by their numbers per split and group\n{table}\n"
            "If that is meant, allow_other_counts: true in the dataset's settings accepts it."
        )
