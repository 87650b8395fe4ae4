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
}

# Dominoes' train and val are what random splits leave: by split, the least and the most images per class (4000 and 1000
# automobiles, give or take six standard deviations of the draw), and the share whose digit agrees.
_DOMINOES_RULE = {"train": (3830, 4170, 0.9), "val": (830, 1170, 0.5)}


def check_counts(name: str, listing: Listing) -> None:
    """Raise ValueError with the published and the found numbers side by side if they differ.

    name: waterbirds, celeba, metashift or dominoes. Of Dominoes test is published; train and val must have as many
    images as their cut allows, grouped as its rule says, give or take one image.
    """
    found = {split: Counter() for split in SPLITS}
    for (split, y, a), n in listing.rows.groupby(["split", "y", "attribute"], dropna=False).size().items():
        found[split][listing.class_names[y], "unknown" if pd.isna(a) else listing.attribute_names[a]] += n
    expected = _expect_dominoes(found) if name == "dominoes" else PUBLISHED[name]
    lines, differs = [f"{'split':<6} {'group':<20} {'expected':>9} | {'found':>9}"], False
    for split in SPLITS:
        tolerance = 1 if name == "dominoes" and split != "test" else 0
        for group in dict.fromkeys([*expected[split], *found[split]]):
            wanted, got = expected[split].get(group, 0), found[split][group]
            off = group not in expected[split] or abs(wanted - got) > tolerance
            differs = differs or off
            lines.append(f"{split:<6} {', '.join(group):<20} {wanted:>9} | {got:>9}{'  <' if off else ''}")
        lines.append(f"{split:<6} {'all':<20} {sum(expected[split].values()):>9} | {found[split].total():>9}")
    if differs:
        title = f"{name}: the images are not those that were published, by their numbers per split and group"
        advice = "If that is meant, allow_other_counts: true in the dataset's settings accepts it."
        raise ValueError("\n".join([title, *lines, advice]))


def _expect_dominoes(found: dict[str, Counter]) -> Counts:
    """The counts that the rule gives for the found number of images, or for the nearest that the cut can leave."""
    expected = {"test": dict.fromkeys(_DOMINOES, 490)}
    for split, (least, most, share) in _DOMINOES_RULE.items():
        per_class = min(max(found[split].total() // 2, least), most)
        agree = round(share * per_class)
        expected[split] = dict(zip(_DOMINOES, (agree, per_class - agree, per_class - agree, agree), strict=True))
    return expected
