"""Published image counts of the datasets, per split and group."""

from collections import Counter

import pandas as pd

from hsfm.data.table import SPLITS, Listing

Counts = dict[str, dict[tuple[str, str], int]]  # by split, then by names of class and attribute

_WATERBIRDS = [("landbird", "land"), ("landbird", "water"), ("waterbird", "land"), ("waterbird", "water")]
_CELEBA = [("dark", "female"), ("dark", "male"), ("blond", "female"), ("blond", "male")]
_METASHIFT = [("cat", "sofa"), ("cat", "bed"), ("dog", "bench"), ("dog", "bike")]
_HELD_OUT = [("cat", "shelf"), ("dog", "shelf")]
_DOMINOES = [("automobile", "0"), ("automobile", "1"), ("truck", "0"), ("truck", "1")]

PUBLISHED: dict[str, Counts] = {
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
    found = {split: Counter() for split in SPLITS}
    for (split, y, a), n in listing.rows.groupby(["split", "y", "attribute"], dropna=False).size().items():
        found[split][listing.class_names[y], "unknown" if pd.isna(a) else listing.attribute_names[a]] += n
    lines, differs = [f"{'split':<6} {'group':<20} {'expected':>9} | {'found':>9}"], False
    for split, expected in PUBLISHED[name].items():
        for group in dict.fromkeys([*expected, *found[split]]):
            wanted, got = expected.get(group, 0), found[split][group]
            differs = differs or wanted != got
            lines.append(f"{split:<6} {', '.join(group):<20} {wanted:>9} | {got:>9}{'  <' if wanted != got else ''}")
        lines.append(f"{split:<6} {'all':<20} {sum(expected.values()):>9} | {found[split].total():>9}")
    if differs:
        title = f"{name}: the images are not those that were published, by their numbers per split and group"
        advice = "If that is meant, allow_other_counts: true in the dataset's settings accepts it."
        raise ValueError("\n".join([title, *lines, advice]))
