"""Analysis of support edits: their direction, and the nearest training images before and after.

The paper's claim (its Figure 2) is that they go along the spurious attribute. Here it is measured, on any backbone,
beside what random directions would give.

Letters: n support rows, d features, v a unit direction, k neighbors.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from jaxtyping import Float, Int
from pydantic import Field, NonNegativeInt, PositiveInt
from torch import Generator, Tensor

from hsfm.core.files import read_parquet, write_parquet
from hsfm.core.settings import FrozenSettings
from hsfm.features.embeddings import Embeddings
from hsfm.methods.hsfm.support import Support

# A row per edit. What needs an attribute is null where there is none; an edit of no length has cosines of 0.
SCHEMA = pa.schema(
    [
        ("dataset", pa.string()),
        ("run", pa.int64()),
        ("seed", pa.int64()),
        ("image_id", pa.string()),
        ("y", pa.int32()),
        ("attribute", pa.int32()),
        ("length", pa.float64()),
        ("relative_length", pa.float64()),  # to that of the features
        ("cos_spurious", pa.float64()),  # with the attributes' contrast; of two, from the lower to the higher
        ("cos_away", pa.float64()),  # the same, counted away from the row's own attribute; of two attributes
        ("cos_class", pa.float64()),  # with the classes' contrast
        ("random_spread", pa.float64()),  # of the cosines with random directions, 1 / sqrt(d)
        ("pairs_spread", pa.float64()),  # of those with differences of random pairs of images of one group
        ("nearest_before", pa.list_(pa.string())),  # ids of training images, without the row itself
        ("nearest_after", pa.list_(pa.string())),
        ("attribute_flips", pa.bool_()),  # whether those of the nearest one before and after differ
        ("class_flips", pa.bool_()),
        ("own_before", pa.float64()),  # share of the neighbors with the row's own attribute
        ("own_after", pa.float64()),
        ("probe_before", pa.float64()),  # probability of its own attribute under a linear probe
        ("probe_after", pa.float64()),
    ]
)
PAIRS = 1000  # directions that are drawn
PROBED = 5000  # rows that the probe learns from at most


class EditSettings(FrozenSettings):
    """Directions of HSFM's edits, and what the support comes to lie near."""

    neighbors: PositiveInt = Field(5, description="Nearest training images of each support row, before and after.")
    seed: NonNegativeInt = Field(0, description="Of the drawn directions, and of the probe's halves.")


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
    for value in within.unique():
        present = label[within == value].unique()
        if len(present) > 1:
            means = torch.stack([features[(within == value) & (label == one)].mean(0) for one in present])
            centered.append(means - means.mean(0))
            labels.append(present)
    if not centered:
        return None
    centered, labels = torch.cat(centered), torch.cat(labels)
    if len(labels.unique()) == 2:
        direction = centered[labels == labels.max()].mean(0) - centered[labels == labels.min()].mean(0)
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
    """The contrast of the classes within attributes, or of all images where no attribute shows two classes.

    Unknown attributes count as one. None for a single class.
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

    None where no group has two images that differ.
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
    difference = difference[difference.norm(dim=1) > 0][:count]
    return difference / difference.norm(dim=1, keepdim=True) if len(difference) else None


# Measurements ---------------------------------------------------------------------------------------------------------


def measure(
    support: Support, train: Embeddings, val: Embeddings, *, settings: EditSettings
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Every edit measured, the columns of SCHEMA but for dataset and run; and which directions and probe there are.

    train: where the support comes from, and where neighbors are looked for. val: where directions and the probe come
    from; train takes its place, which the metadata says, where val does not show two attributes within a class.
    """
    place = {image_id: row for row, image_id in enumerate(train.image_id)}
    own = torch.tensor([place[image_id] for image_id in support.image_id])
    attribute, generator = train.attribute[own], Generator().manual_seed(settings.seed)
    pairs = within_group_directions(val, generator)
    (reference, spurious), between = spurious_direction(train, val), class_direction(val)
    accuracy, before, after = None, np.nan, np.nan
    if spurious is not None:
        accuracy, before, after = _probe(reference, generator, support, attribute)
    known = reference.attribute[reference.attribute >= 0].unique()
    frame = pd.DataFrame(
        {
            "seed": support.seed,
            "image_id": support.image_id,
            "y": support.y.numpy(),
            "attribute": _nullable(attribute),
            **_directions(support, attribute, known, spurious, between, pairs),
            **_neighbors(support, train, own, settings.neighbors),
            "probe_before": before,
            "probe_after": after,
        }
    )
    metadata = {
        "class_names": train.class_names,
        "directions_of": reference.split,
        "directions_cosine": None if spurious is None or between is None else float(spurious @ between),
        "spurious": spurious is not None,
        "probe_accuracy": accuracy,
        "neighbors": min(settings.neighbors, len(train.y) - 1),
    }
    return frame, metadata


def _directions(
    support: Support,
    attribute: Int[Tensor, " n"],
    known: Int[Tensor, " k"],
    spurious: Float[Tensor, " d"] | None,
    between: Float[Tensor, " d"] | None,
    pairs: Float[Tensor, "p d"] | None,
) -> dict[str, Any]:
    """Lengths of the edits, and their cosines with the attributes', the classes' and random directions.

    known: the attributes that `spurious` tells apart, rising.
    """
    edits = support.after - support.before
    length, size = edits.norm(dim=1), support.before.norm(dim=1)
    along, up = (np.nan if v is None else cosines(edits, v[None])[:, 0].numpy() for v in (spurious, between))
    away = np.nan
    if spurious is not None and len(known) == 2:
        sign = torch.where(attribute == known[0], 1.0, torch.where(attribute == known[1], -1.0, torch.nan))
        away = along * sign.numpy()
    return {
        "length": length.numpy(),
        "relative_length": torch.where(size > 0, length / size, 0.0).numpy(),
        "cos_spurious": along,
        "cos_away": away,
        "cos_class": up,
        "random_spread": edits.shape[1] ** -0.5,
        "pairs_spread": np.nan if pairs is None else cosines(edits, pairs).square().mean(1).sqrt().numpy(),
    }


def _nullable(values: Int[Tensor, " n"]) -> pd.Series:
    """-1 as null."""
    series = pd.Series(values.numpy(), dtype="Int32")
    return series.mask(series < 0)


def _neighbors(support: Support, train: Embeddings, own: Int[Tensor, " n"], k: int) -> dict[str, Any]:
    attribute, columns, first = train.attribute[own], {}, {}
    for when in ("before", "after"):
        rows = nearest(getattr(support, when), train.features, k, own=own)
        theirs, first[when] = train.attribute[rows], rows[:, 0]
        share = (theirs == attribute[:, None]).double().mean(1)
        columns[f"nearest_{when}"] = [[train.image_id[row] for row in of_one] for of_one in rows.tolist()]
        columns[f"own_{when}"] = torch.where((attribute >= 0) & (theirs >= 0).all(1), share, torch.nan).numpy()
    before, after = (_nullable(train.attribute[rows]) for rows in first.values())
    columns["attribute_flips"] = (before != after).astype("boolean")
    columns["class_flips"] = (train.y[first["before"]] != train.y[first["after"]]).numpy()
    return columns


def nearest(
    queries: Float[Tensor, "m d"], rows: Float[Tensor, "n d"], k: int, *, own: Int[Tensor, " m"]
) -> Int[Tensor, "m k"]:
    """The k nearest rows of each query, or all, the nearest first, without the row `own` that the query comes from.

    It is left out after an edit too, or one that moves nothing would come to lie nearer to its own class.
    """
    from sklearn.neighbors import NearestNeighbors  # slow to import

    k = min(k, len(rows) - 1)
    model = NearestNeighbors(n_neighbors=k + 1, algorithm="brute").fit(rows.numpy())
    found = torch.from_numpy(model.kneighbors(queries.numpy(), return_distance=False))
    left_out = found == own[:, None]
    left_out[:, -1] |= ~left_out.any(1)
    return found[~left_out].view(-1, k)


def _probe(
    reference: Embeddings, generator: Generator, support: Support, attribute: Int[Tensor, " n"]
) -> tuple[float | None, Any, Any]:
    """A linear probe's accuracy, and its probability of each support row's own attribute before and after.

    It learns from one half of each attribute's rows and is judged by the other. None and NaN where an attribute that is
    there has a single row.
    """
    rows = (reference.attribute >= 0).nonzero()[:, 0]
    rows = rows[torch.randperm(len(rows), generator=generator)][: 2 * PROBED]
    by_attribute = [rows[reference.attribute[rows] == label] for label in reference.attribute[rows].unique()]
    if len(by_attribute) < 2 or min(map(len, by_attribute)) < 2:
        return None, np.nan, np.nan
    halves = [torch.cat([part[side::2] for part in by_attribute]) for side in (0, 1)]
    (features, labels), unseen = ((reference.features[h].numpy(), reference.attribute[h].numpy()) for h in halves)
    scale = float(features.std()) or 1.0
    from sklearn.linear_model import LogisticRegression  # slow to import

    model = LogisticRegression(C=0.1, max_iter=2000).fit(features / scale, labels)
    own = attribute.numpy()[:, None] == model.classes_
    found = (model.predict_proba(part.numpy() / scale).astype("float64") for part in (support.before, support.after))
    shares = (np.where(own.any(1), (one * own).sum(1), np.nan) for one in found)
    return float(model.score(unseen[0] / scale, unseen[1])), *shares


def largest_of_each_group(rows: pd.DataFrame, count: int) -> pd.DataFrame:
    """The support rows with the longest edits of each class and attribute; the index tells their places in `rows`."""
    by = ["y", "attribute", "length"]
    longest = rows.sort_values(by, ascending=[True, True, False], kind="stable", na_position="first")
    return longest.groupby(["y", "attribute"], dropna=False).head(count)


# Files ----------------------------------------------------------------------------------------------------------------


def write_edits(path: str | Path, edits: pd.DataFrame, metadata: Mapping[str, Any]) -> None:
    """Write measurements, the columns of SCHEMA; NaN becomes null."""
    write_parquet(path, pa.Table.from_pandas(edits[SCHEMA.names], SCHEMA, preserve_index=False), metadata)


def read_edits(path: str | Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read what `write_edits` wrote: its rows with the column class_name, and the metadata."""
    table, metadata = read_parquet(path, SCHEMA)
    types = {pa.int32(): pd.Int32Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame = table.to_pandas(types_mapper=types.get)
    return frame.assign(class_name=[metadata["class_names"][y] for y in frame["y"]]), metadata
