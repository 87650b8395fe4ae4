"""Draw HSFM as four connected panels out of the first seed of the first run."""

import numpy as np
import pandas as pd
import torch

from hsfm.analysis.plane import in_plane, name_of, names_of
from hsfm.core import job
from hsfm.core.files import read_frame
from hsfm.data.open_images import open_pictures
from hsfm.data.store import CacheFiles
from hsfm.features.embeddings import Embeddings, minority_rows, read_embeddings
from hsfm.heads.hard_set import losses, rank_in_class, read_hard_set
from hsfm.heads.head import Head, read_heads
from hsfm.methods.hsfm.inner_loop import follow
from hsfm.methods.hsfm.support import Support, read_support
from hsfm.report import figures
from hsfm.report.method_figure import COLUMNS, EXAMPLES, HARDEST, Loop, Run, draw_method

ARROWS = 60  # support rows that are drawn
HISTORY = ["seed", "epoch", "outer_loss", "val_worst_group", "val_worst_class", "kept"]
HELD = ["seed", "epoch", "y", "attribute", "n"]


def draw(inputs: dict, outputs: list[str], dataset: str, run: int, cache: CacheFiles | None) -> None:
    train, val = (read_embeddings(inputs[split], split=split) for split in ("train", "val"))
    erm, saved = read_heads(inputs["erm"]).head[0], read_heads(inputs["heads"])
    seed, settings = saved.seeds[0], saved.settings
    support = of_seed(read_support(inputs["support"]), seed)
    history = read_frame(inputs["history"], HISTORY)
    history = history[history["seed"] == seed].reset_index(drop=True)
    kept = int(history.loc[history["kept"], "epoch"].iloc[0])
    pictures = open_pictures(inputs["images"], cache) if "images" in inputs else None
    rows = {image_id: row for row, image_id in enumerate(train.image_id)}
    names = names_of(train, [rows[image_id] for image_id in support.image_id])
    order = np.unique(np.linspace(0, len(names) - 1, ARROWS).round().astype(int))
    plane = in_plane(support.before[order], support.after[order], train, val)
    first = read_hard_set(inputs["hard_set"], val, per_class=settings["hard_per_class"])
    hard = settings["outer_set"] == "hard"
    hardest = hardest_of(first.loss, first.rank, int(np.prod(HARDEST))) if hard else []
    groups = groups_of(train, val)
    figure = draw_method(
        Run(
            title=f"{dataset}: HSFM, run {run}, seed {seed}; {len(history)} epochs, epoch {kept} is kept",
            settings=settings,
            groups=groups,
            pictures={}
            if pictures is None
            else some_of_each_group(support, names, list(groups["group_name"]), pictures),
            support_size=len(names),
            points=plane.points,
            before=plane.before,
            after=plane.after,
            names=[names[row] for row in order],
            labels=plane.labels,
            loops=inner_loops(erm, saved.head[0], support, val, first.chosen, kept, settings),
            hardest=[
                (
                    None if pictures is None else figures.thumbnail(pictures([val.image_id[row]])[0]),
                    float(first.loss[row]),
                    name_of(val, int(val.y[row]), int(val.attribute[row])),
                )
                for row in hardest
            ],
            losses=sorted(first.loss[first.chosen].tolist(), reverse=True) if hard else [],
            held=held_by(read_frame(inputs["hard_groups"], HELD), val, seed, kept),
            history=history,
        )
    )
    for path in outputs:
        figures.save(figure, path)


def of_seed(support: Support, seed: int) -> Support:
    rows = [number for number, one in enumerate(support.seed) if one == seed]
    return Support(
        seed=tuple(support.seed[row] for row in rows),
        image_id=tuple(support.image_id[row] for row in rows),
        y=support.y[rows],
        before=support.before[rows],
        after=support.after[rows],
    )


def groups_of(train: Embeddings, val: Embeddings) -> pd.DataFrame:
    """The groups of validation, class by class, and which are minority."""
    rare = minority_rows(train, val)
    frame = pd.DataFrame({"y": val.y, "attribute": val.attribute, "group_name": names_of(val)})
    frame["minority"] = None if rare is None else rare.numpy()
    return frame.drop_duplicates("group_name").sort_values(["y", "attribute"]).reset_index(drop=True)


def some_of_each_group(
    support: Support, names: list[str], order: list[str], pictures: object
) -> dict[str, list[np.ndarray]]:
    """Support images of some groups, evenly spaced where there are many; last those that validation lacks."""
    rows = pd.Series(range(len(names))).groupby(names, sort=False).apply(list).to_dict()
    place = {name: number for number, name in enumerate(order)}
    present = sorted(rows, key=lambda name: place.get(name, len(place)))
    shown = [present[one] for one in np.unique(np.linspace(0, len(present) - 1, EXAMPLES).round().astype(int))]
    return {
        name: [figures.thumbnail(one) for one in pictures([support.image_id[row] for row in rows[name][:COLUMNS]])]
        for name in shown
    }


def inner_loops(
    erm: Head, head: Head, support: Support, val: Embeddings, chosen: torch.Tensor, kept: int, settings: dict
) -> list[Loop]:
    """The first inner loop of the run, and the one that the kept state leads to; both exactly as the run has them."""
    now = losses(head, val.features, val.y)
    later = rank_in_class(now, val.y) <= settings["hard_per_class"]
    if settings["refresh"] == "never" or settings["outer_set"] == "random":
        later = chosen
    found = []
    for name, start, features, rows in (
        ("epoch 1, ERM's head", erm, support.before, chosen),
        (f"after epoch {kept}, the kept head", head, support.after, later),
    ):
        loop = follow(
            start, features, support.y, val.features[rows], val.y[rows],
            steps=settings["inner_steps"], lr=settings["inner_lr"],
        )  # fmt: skip
        found.append(Loop(name, loop.support_loss.tolist(), loop.change.tolist(), float(loop.hard_loss[-1])))
    return found


def hardest_of(loss: torch.Tensor, rank: torch.Tensor, count: int) -> list[int]:
    """The rows of the highest losses, class by class in turn."""
    order = np.lexsort((-loss.numpy(), rank.numpy()))
    return order[:count].tolist()


def held_by(counts: pd.DataFrame, val: Embeddings, seed: int, kept: int) -> pd.DataFrame:
    """What the hard sets of the first and the kept epoch hold, by group."""
    counts = counts[counts["seed"] == seed].assign(attribute=lambda rows: rows["attribute"].fillna(-1).astype(int))
    names = [name_of(val, y, a) for y, a in zip(counts["y"], counts["attribute"], strict=True)]
    counts = counts.assign(group_name=names).set_index("group_name")
    of = {"first": 1, "kept": kept}
    return pd.DataFrame({key: counts.loc[counts["epoch"] == epoch, "n"] for key, epoch in of.items()}).reset_index()


job.start(snakemake.log[0])
draw(
    dict(snakemake.input.items()),
    list(snakemake.output),
    snakemake.wildcards.dataset,
    snakemake.params.run,
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
)
job.finish("Figure", snakemake.output[0])
