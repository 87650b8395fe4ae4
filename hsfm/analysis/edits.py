"""Analysis of support edits: their direction, and the nearest training images before and after.

The paper's claim (its Figure 2) is that they go along the spurious attribute. Here it is measured, on any backbone,
beside what random directions would give.

Letters: n support rows, d features, v a unit direction, k neighbors.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Generator, Tensor

from hsfm.analysis.neighbors import nearest
from hsfm.core.files import read_parquet, require, write_parquet
from hsfm.core.settings import FrozenSettings
from hsfm.features.embeddings import Embeddings
from hsfm.methods.hsfm.support import Support

log = logging.getLogger(__name__)

SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("run", pa.int64()),
        ("seed", pa.int64()),
        ("image_id", pa.string()),
        ("y", pa.int32()),
        ("attribute", pa.int32()),
        *((name, pa.float64()) for name in ("length", "relative_length", "cos_spurious", "cos_away", "cos_class",
                                            "random_spread", "pairs_spread")),
        ("nearest_before", pa.list_(pa.string())),
        ("nearest_after", pa.list_(pa.string())),
        ("attribute_before", pa.int32()),
        ("attribute_after", pa.int32()),
        ("y_before", pa.int32()),
        ("y_after", pa.int32()),
        ("attribute_flips", pa.bool_()),
        ("class_flips", pa.bool_()),
        *((name, pa.float64()) for name in ("own_before", "own_after", "probe_before", "probe_after")),
    ]
)  # fmt: skip
PAIRS = 1000  # directions that are drawn
PERMUTED = 100  # times that attributes are shuffled
PROBED = 5000  # rows that the probe learns from at most


class EditSettings(FrozenSettings):
    """What HSFM's edits mean: along which direction they go, and what the support comes to lie near."""

    neighbors: PositiveInt = Field(
        5, description="Nearest training images of each support row before and after its edit."
    )
    seed: NonNegativeInt = Field(
        0,
        description="Of the drawn directions and of the halves of validation that the probe learns from and is judged "
        "by.",
    )


# Directions -----------------------------------------------------------------------------------------------------------


def contrast(
    features: Float[Tensor, "n d"], label: Int[Tensor, " n"], within: Int[Tensor, " n"]
) -> Float[Tensor, " d"] | None:
    """The unit direction along which mean features differ by `label`, within equal values of `within`.

    Two labels: the mean over `within` of the difference of the means, from the lower label to the higher. More: the
    first right singular vector of the means, centered within each value of `within`, with the sign that makes the
    projection rise with the label. Rows with a negative value of either are left out. None where no value of `within`
    has two labels.
    """
    known = (label >= 0) & (within >= 0)
    features, label, within = features[known], label[known], within[known]
    centered, labels = [], []
    for value in within.unique().tolist():
        present = label[within == value].unique()
        if len(present) < 2:
            continue
        means = torch.stack([features[(within == value) & (label == one)].mean(0) for one in present.tolist()])
        centered.append(means - means.mean(0))
        labels.append(present)
    if not centered:
        return None
    centered, labels = torch.cat(centered), torch.cat(labels)
    lowest, highest = int(labels.min()), int(labels.max())
    if len(labels.unique()) == 2:
        direction = centered[labels == highest].mean(0) - centered[labels == lowest].mean(0)
    else:
        direction = torch.linalg.svd(centered, full_matrices=False).Vh[0]
        rising = (centered @ direction) @ (labels - labels.double().mean()).to(direction)
        direction = direction * (1 if rising >= 0 else -1)
    length = direction.norm()
    return direction / length if length > 0 else None


def spurious_direction(train: Embeddings, val: Embeddings) -> tuple[Embeddings, Float[Tensor, " d"] | None]:
    """The contrast of the attributes within classes, and of which embeddings: val, or train where val shows none."""
    for part in (val, train):
        direction = contrast(part.features, part.attribute, part.y)
        if direction is not None:
            return part, direction
    return val, None


def class_direction(val: Embeddings) -> Float[Tensor, " d"] | None:
    """The contrast of the classes within attributes, those that are not known being one.

    Where no attribute shows two classes, that of all images. None for a single class.
    """
    direction = contrast(val.features, val.y, torch.where(val.attribute >= 0, val.attribute, val.n_attributes))
    return direction if direction is not None else contrast(val.features, val.y, torch.zeros_like(val.y))


def cosines(edits: Float[Tensor, "n d"], directions: Float[Tensor, "k d"]) -> Float[Tensor, "n k"]:
    """Of edits with unit directions; 0 for an edit of no length."""
    length = edits.norm(dim=1, keepdim=True)
    return torch.where(length > 0, edits @ directions.T / length, 0.0)


def within_group_directions(
    embeddings: Embeddings, generator: Generator, count: int = PAIRS
) -> Float[Tensor, "k d"] | None:
    """Unit differences of random pairs of images of one class and attribute: how features vary by themselves.

    Of one class alone where no attribute is known. None where no group has two images that differ.
    """
    group = torch.where(embeddings.group >= 0, embeddings.group, embeddings.n_groups + embeddings.y)
    first = torch.randint(len(group), (4 * count,), generator=generator)
    # another image of the same group, uniformly
    order = group.argsort(stable=True)
    sizes = torch.bincount(group)
    start = sizes.cumsum(0) - sizes
    place = (torch.rand(len(first), dtype=torch.float64, generator=generator) * sizes[group[first]]).long()
    second = order[start[group[first]] + place]
    difference = embeddings.features[second] - embeddings.features[first]
    length = difference.norm(dim=1)
    difference = difference[length > 0][:count]
    return difference / difference.norm(dim=1, keepdim=True) if len(difference) else None


def contrast_ratio(embeddings: Embeddings, generator: Generator) -> float | None:
    """How much longer the contrast of two attributes is than by chance, with attributes shuffled within the classes.

    About 1 where the features do not know the attribute, so that the spurious direction is noise. None unless there are
    two attributes within a class. The mean difference within a class is a weighted sum of its rows, so that all
    contrasts are one product.
    """
    attribute, y = embeddings.attribute, embeddings.y
    labels = attribute[attribute >= 0].unique()
    if len(labels) != 2:
        return None
    weight = torch.zeros(1 + PERMUTED, len(y))  # the first is as it is
    for value in y.unique().tolist():
        parts = [((y == value) & (attribute == label)).nonzero()[:, 0] for label in labels.tolist()]
        if min(map(len, parts)) == 0:
            continue
        rows = torch.cat(parts)
        shares = torch.cat(
            [torch.full((len(part),), sign / len(part)) for part, sign in zip(parts, (-1, 1), strict=True)]
        )
        weight[0, rows] = shares
        for number in range(1, 1 + PERMUTED):
            weight[number, rows] = shares[torch.randperm(len(rows), generator=generator)]
    length = (weight @ embeddings.features).square().sum(1)
    chance = length[1:].mean()
    return float((length[0] / chance).sqrt()) if chance > 0 else None


# Measurements ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    rows: pd.DataFrame  # one per support row, see `measure`
    metadata: Mapping[str, Any]  # which directions there are, of what they were taken, how good the probe is


def measure(support: Support, train: Embeddings, val: Embeddings, *, settings: EditSettings) -> Measured:
    """Measure every edit.

    train: where the support comes from, and where neighbors are looked for. val: where directions and the probe come
    from; train takes its place, which the metadata says, where val does not show two attributes within a class.

    Columns: seed, image_id, y, attribute (null where unknown); length of the edit, and relative_length, to that of the
    features; cos_spurious, with the unit difference of the attributes' means within classes (for two attributes from
    the lower to the higher), and cos_away, the same counted away from the row's own attribute (two attributes);
    cos_class, likewise with that of the classes' means within attributes; random_spread, the standard deviation of an
    edit's cosines with random directions, 1 / sqrt(d); pairs_spread, with differences of random pairs of images of one
    group; nearest_before and nearest_after, the ids of the nearest training images, the row itself left out;
    attribute_before, attribute_after, y_before and y_after, of the nearest one, and whether these differ,
    attribute_flips and class_flips; own_before and own_after, the share of the neighbors with the row's own attribute;
    probe_before and probe_after, the probability of its own attribute under a linear probe. What needs an attribute is
    null where there is none. An edit of no length has cosines of 0.

    Raises ValueError where support, train and val are not of one checkpoint, or a support row is not in train.
    """
    own = _places(support, train, val)
    attribute, generator = train.attribute[own], Generator().manual_seed(settings.seed)
    # in this order, since pairs, probe and shuffled attributes are drawn from one generator
    directions = _Directions.of(train, val, generator)
    frame = _lengths_and_cosines(support, attribute, directions)
    _add_neighbors(frame, support, train, own, settings.neighbors)
    reference = directions.reference
    probe = _probe(reference, generator) if directions.spurious is not None else None
    _add_probe(frame, probe, support, attribute)
    metadata = {
        "class_names": train.class_names,
        "directions_of": reference.split,
        "directions_cosine": directions.cosine,
        "spurious": directions.spurious is not None,
        "contrast_ratio": contrast_ratio(reference, generator) if directions.spurious is not None else None,
        "two_attributes": directions.two,
        "probe_accuracy": None if probe is None else probe.accuracy,
        "neighbors": settings.neighbors,
    }
    return Measured(frame, metadata)


def _places(support: Support, train: Embeddings, val: Embeddings) -> Int[Tensor, " n"]:
    """Where in train the support rows are. Raises ValueError for what does not belong together."""
    place = {image_id: row for row, image_id in enumerate(train.image_id)}
    for image_id in support.image_id:
        if image_id not in place:
            raise ValueError(f"{support.path}: support image {image_id!r} is not among the training embeddings")
    for part in (train, val):
        if support.checkpoint_sha256 != part.checkpoint_sha256:
            raise ValueError(
                f"{support.path}: is of checkpoint {support.checkpoint_sha256}, but the {part.split} embeddings are of "
                f"{part.checkpoint_sha256}"
            )
    return torch.tensor([place[image_id] for image_id in support.image_id])


@dataclass(frozen=True)
class _Directions:
    """What edits are compared with."""

    reference: Embeddings  # that the spurious direction was taken of
    spurious: Float[Tensor, " d"] | None
    between: Float[Tensor, " d"] | None  # of the classes
    pairs: Float[Tensor, "k d"] | None  # of images of one group

    @staticmethod
    def of(train: Embeddings, val: Embeddings, generator: Generator) -> "_Directions":
        pairs = within_group_directions(val, generator)
        return _Directions(*spurious_direction(train, val), class_direction(val), pairs)

    @property
    def cosine(self) -> float | None:
        """Of the spurious direction with that of the classes."""
        if self.spurious is None or self.between is None:
            return None
        return float(self.spurious @ self.between)

    @property
    def known(self) -> Int[Tensor, " k"]:
        """The attributes that the reference knows, row by row."""
        return self.reference.attribute[self.reference.attribute >= 0]

    @property
    def two(self) -> bool:
        """Whether the spurious direction leads from one attribute to the other."""
        return self.spurious is not None and len(self.known.unique()) == 2

    def away(self, attribute: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """The sign with which the spurious direction leads away from an attribute.

        NaN for one that the direction does not tell from another.
        """
        lowest, highest = (int(self.known.min()), int(self.known.max())) if len(self.known) else (0, 0)
        return torch.where(attribute == lowest, 1.0, torch.where(attribute == highest, -1.0, torch.nan))


def _lengths_and_cosines(support: Support, attribute: Int[Tensor, " n"], directions: _Directions) -> pd.DataFrame:
    edits = support.after - support.before
    length, size = edits.norm(dim=1), support.before.norm(dim=1)
    frame = pd.DataFrame(
        {
            "seed": support.seed,
            "image_id": support.image_id,
            "y": support.y.numpy(),
            "attribute": _nullable(attribute),
            "length": length.numpy(),
            "relative_length": torch.where(size > 0, length / size, 0.0).numpy(),
        }
    )
    spurious, between, pairs = directions.spurious, directions.between, directions.pairs
    frame["cos_spurious"] = cosines(edits, spurious[None])[:, 0].numpy() if spurious is not None else np.nan
    away = directions.away(attribute).numpy()
    frame["cos_away"] = frame["cos_spurious"].to_numpy() * away if directions.two else np.nan
    frame["cos_class"] = cosines(edits, between[None])[:, 0].numpy() if between is not None else np.nan
    frame["random_spread"] = edits.shape[1] ** -0.5
    frame["pairs_spread"] = cosines(edits, pairs).square().mean(1).sqrt().numpy() if pairs is not None else np.nan
    return frame


def _nullable(values: Int[Tensor, " n"]) -> pd.Series:
    """-1 as null."""
    series = pd.Series(values.numpy(), dtype="Int32")
    return series.mask(series < 0)


def _add_neighbors(frame: pd.DataFrame, support: Support, train: Embeddings, own: Tensor, k: int) -> None:
    # the same image may be in the support of several seeds, and is looked for once
    rows, where = own.unique(return_inverse=True)
    found = {
        "before": nearest(train.features[rows], train.features, k, own=rows).row[where],
        # without the row itself here too, or an edit that moves nothing would come to lie nearer to its own class
        "after": nearest(support.after, train.features, k, own=own).row,
    }
    attribute = train.attribute[own]
    for when, row in found.items():
        frame[f"nearest_{when}"] = [[train.image_id[i] for i in one] for one in row.tolist()]
        frame[f"attribute_{when}"] = _nullable(train.attribute[row[:, 0]])
        frame[f"y_{when}"] = train.y[row[:, 0]].numpy()
        theirs = train.attribute[row]
        share = (theirs == attribute[:, None]).double().mean(1)
        sound = (attribute >= 0) & (theirs >= 0).all(1)
        frame[f"own_{when}"] = torch.where(sound, share, torch.nan).numpy()
    frame["attribute_flips"] = (frame["attribute_before"] != frame["attribute_after"]).astype("boolean")
    frame["class_flips"] = frame["y_before"] != frame["y_after"]


@dataclass(frozen=True)
class Probe:
    model: Any  # scikit-learn's LogisticRegression
    scale: float
    accuracy: float  # on rows that it has not seen


def _probe(reference: Embeddings, generator: Generator) -> Probe | None:
    """Logistic regression of the attribute on one half of each attribute's rows, with its accuracy on the other.

    None where an attribute that is there has a single row.
    """
    rows = (reference.attribute >= 0).nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=generator)][: 2 * PROBED]
    by_attribute = [rows[reference.attribute[rows] == label] for label in reference.attribute[rows].unique()]
    if len(by_attribute) < 2 or min(map(len, by_attribute)) < 2:
        return None
    halves = [torch.cat([part[side::2] for part in by_attribute]) for side in (0, 1)]
    (features, attribute), unseen = ((reference.features[h].numpy(), reference.attribute[h].numpy()) for h in halves)
    scale = float(features.std()) or 1.0
    from sklearn.linear_model import LogisticRegression  # slow to import

    model = LogisticRegression(C=0.1, max_iter=2000).fit(features / scale, attribute)
    return Probe(model, scale, float(model.score(unseen[0] / scale, unseen[1])))


def _add_probe(frame: pd.DataFrame, probe: Probe | None, support: Support, attribute: Tensor) -> None:
    for when, features in (("before", support.before), ("after", support.after)):
        frame[f"probe_{when}"] = np.nan
        if probe is None:
            continue
        probability = probe.model.predict_proba(features.numpy() / probe.scale)
        column = {label: number for number, label in enumerate(probe.model.classes_.tolist())}
        frame[f"probe_{when}"] = [
            probability[row, column[own]] if own in column else np.nan for row, own in enumerate(attribute.tolist())
        ]


def largest_of_each_group(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """The support rows with the longest edits of each class and attribute; the index tells their places in `rows`."""
    numbered = rows.assign(known=rows["attribute"].fillna(-1))
    longest = numbered.sort_values("length", ascending=False, kind="stable")
    chosen = longest.groupby(["y", "known"], sort=True).head(count)
    return chosen.sort_values(["y", "known", "length"], ascending=[True, True, False], kind="stable").drop(
        columns="known"
    )


# Files ----------------------------------------------------------------------------------------------------------------


def write_edits(path: str | Path, measured: Measured, *, dataset: str, run: int, checkpoint_sha256: str) -> None:
    """Write measurements, what is not a number as null."""
    frame = measured.rows.assign(dataset=dataset, run=run)
    table = pa.Table.from_pandas(frame[SCHEMA.names], SCHEMA, preserve_index=False)
    write_parquet(path, table, {**measured.metadata, "checkpoint_sha256": checkpoint_sha256})


def read_edits(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read what `write_edits` wrote: its rows with the column class_name, and what is said about them.

    Raises ValueError naming the file and what is wrong.
    """
    table, metadata = read_parquet(path, SCHEMA)
    require(
        metadata,
        ("class_names", "directions_of", "directions_cosine", "spurious", "contrast_ratio", "probe_accuracy"),
        path,
    )
    types = {pa.int32(): pd.Int32Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame = table.to_pandas(types_mapper=types.get)
    return frame.assign(class_name=[metadata["class_names"][y] for y in frame["y"]]), metadata
