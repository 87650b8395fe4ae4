"""One seed of HSFM, panel by panel, as its figure shows it: support, inner loops, hard set."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool
from torch import Tensor

from hsfm.analysis.edit_pictures import evenly_spaced, in_plane, names_of, names_of_support
from hsfm.data.table import group_name
from hsfm.features.embeddings import Embeddings, minority_rows
from hsfm.heads.hard_set import HardSet, build
from hsfm.heads.head import Head
from hsfm.methods.hsfm.outer_loop import follow
from hsfm.methods.hsfm.support import Support

EXAMPLES, COLUMNS = 4, 3  # groups whose support images are shown, and how many of each
HARDEST = 8  # images of the hard set that are shown
Pictures = Callable[[Sequence[str]], list[np.ndarray]]  # a function from image ids to images


def support_panel(support: Support, train: Embeddings, val: Embeddings, pictures: Pictures) -> dict[str, Any]:
    """The support's images, and its rows in the plane; of all panels the groups of validation."""
    groups, names = groups_of(train, val), names_of_support(support, train)
    shown = some_of_each_group(names, list(groups["group_name"]))
    return {
        "groups": groups,
        "pictures": {name: pictures([support.image_id[row] for row in rows]) for name, rows in shown.items()},
        "support_size": len(names),
        **in_plane(support, train, val),
    }


def groups_of(train: Embeddings, val: Embeddings) -> pd.DataFrame:
    """The groups of validation, class by class, and which are minority (None where unknown)."""
    rare = minority_rows(train, val)
    frame = pd.DataFrame({"y": val.y, "attribute": val.attribute, "group_name": names_of(val)})
    frame["minority"] = None if rare is None else rare.numpy()
    return frame.drop_duplicates("group_name").sort_values(["y", "attribute"]).reset_index(drop=True)


def some_of_each_group(names: Sequence[str], order: Sequence[str]) -> dict[str, list[int]]:
    """Support rows of some groups, evenly spaced where there are many; last those that validation lacks."""
    rows = pd.Series(range(len(names))).groupby(names, sort=False).apply(list).to_dict()
    place = {name: number for number, name in enumerate(order)}
    present = sorted(rows, key=lambda name: place.get(name, len(place)))
    return {present[one]: rows[present[one]][:COLUMNS] for one in evenly_spaced(len(present), EXAMPLES)}


def inner_loops(
    erm: Head,
    head: Head,
    support: Support,
    val: Embeddings,
    chosen: Bool[Tensor, " n"],
    kept: int,
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """The first inner loop of the run, and the one that the kept state leads to.

    chosen: the outer set of the first epoch. kept: the epoch.
    """
    later = build(head, val, per_class=settings["hard_per_class"]).chosen
    if settings["refresh"] == "never" or settings["outer_set"] == "random":
        later = chosen
    found = []
    for name, start, features, rows in (
        ("epoch 1, ERM's head", erm, support.before, chosen),
        (f"after epoch {kept}, the kept head", head, support.after, later),
    ):
        data, steps = (features, support.y, val.features[rows], val.y[rows]), settings["inner_steps"]
        found.append({"name": name, **follow(start, *data, steps=steps, lr=settings["inner_lr"])})
    return found


def hardest_pictures(first: HardSet, val: Embeddings, pictures: Pictures) -> list[tuple[np.ndarray, float, str]]:
    """Picture, loss and group of the hardest images of the first epoch, class by class in turn."""
    rows = np.lexsort((-first.loss.numpy(), first.rank.numpy()))[:HARDEST].tolist()
    groups = [group_name(val, int(val.y[row]), int(val.attribute[row])) for row in rows]
    shown = pictures([val.image_id[row] for row in rows])
    return list(zip(shown, first.loss[rows].tolist(), groups, strict=True))


def held_by(counts: pd.DataFrame, val: Embeddings, kept: int) -> pd.DataFrame:
    """Composition of the hard sets of the first and the kept epoch, by group. counts: of one seed."""
    names = [group_name(val, y, a) for y, a in zip(counts["y"], counts["attribute"].astype("Int64"), strict=True)]
    counts = counts.assign(group_name=names).set_index("group_name")
    of = {"first": 1, "kept": kept}
    return pd.DataFrame({key: counts.loc[counts["epoch"] == epoch, "n"] for key, epoch in of.items()}).reset_index()
