"""Rates of IDFR's gate: how often it opens on one cloud per class, and on two. Commands of benchmarks.idfr."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from scipy.stats import binomtest

from benchmarks.negative_controls import Control, draw_rows
from hsfm.features.embeddings import Embeddings, minority_rows
from hsfm.heads.inferred_groups.attribute import FOLD_SEEDS, GUARD_SHARE, LEVEL
from hsfm.heads.inferred_groups.groups import TRAIN, TRAIN_FOLDS, VAL_SHARE, find_groups, space_of
from hsfm.heads.inferred_groups.two_clouds import of_rule, p_of_division
from hsfm.report.figures import WIDTH
from hsfm.report.style import of_group, styled

LAWS = {
    "Gaussian": lambda rng, size: rng.normal(size=size),
    "logistic": lambda rng, size: rng.logistic(size=size),
    "uniform": lambda rng, size: rng.uniform(-1, 1, size=size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "t, 5 degrees of freedom": lambda rng, size: rng.standard_t(5, size=size),
    "t, 3 degrees of freedom": lambda rng, size: rng.standard_t(3, size=size),
    # every projection is a t
    "t, 3 degrees, elliptical": lambda rng, size: rng.normal(size=size) / np.sqrt(rng.chisquare(3, (size[0], 1)) / 3),
    "log-normal": lambda rng, size: np.exp(rng.normal(size=size)),
}
MOST = 2000  # majority rows of train in a draw
NOISE = (0.05, 0.1)  # shares of wrong labels in classes of one cloud
Draw = Callable[[int], tuple[np.ndarray, np.ndarray]]  # by its number
DISTANCES, MINORITY = (3, 4, 5, 6), (5, 10, 15, 25, 50)


def p_of_divisions(x: np.ndarray, y: np.ndarray) -> list[list[float]]:
    """Of every division into folds, by each power, the larger p of both tests."""
    return [p_of_division(x, y, seed=seed, folds=TRAIN_FOLDS, **TRAIN) for seed in range(FOLD_SEEDS)]


def interval(number: int, n: int) -> tuple[float, float]:
    """95 %, Clopper and Pearson's."""
    return tuple(binomtest(number, n).proportion_ci(method="exact"))


def counted(opened: Sequence[bool]) -> str:
    number, n = int(np.sum(opened)), len(opened)
    low, high = interval(number, n)
    return f"{number} of {n} | {100 * low:.1f} to {100 * high:.1f} %"


def one_cloud(law: str, draw: int, rows: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng, y = np.random.default_rng([draw, rows, d]), np.arange(rows) % 2
    x = LAWS[law](rng, (rows, d))
    x[:, 0] += 3 * (y - 0.5)  # the classes, of which one cloud each
    return (x - x.mean(0)) / x.std(0), y


def two_clouds(distance: float, minority: int, draw: int, rows: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng, y = np.random.default_rng([draw, distance, minority]), np.arange(rows) % 2
    attribute = np.where(np.arange(rows) < 2 * minority, 1 - y, y)
    x = rng.normal(size=(rows, d))
    x[:, 0] += distance * (attribute - 0.5)
    x[:, 1] += 2 * (y - 0.5)
    return (x - x.mean(0)) / x.std(0), y


def rows_with(train: Embeddings, minority: int, draw: Sequence[int] | int) -> tuple[np.ndarray, np.ndarray]:
    """Principal components and classes of 80 % of train's majority rows, MOST at most, and so many others a class."""
    rare, y = minority_rows(train, train).numpy(), train.y.numpy()
    order = np.random.default_rng(draw).permutation(len(y))
    chosen = [order[~rare[order]][: most_of(rare)]]
    chosen += [order[rare[order] & (y[order] == label)][:minority] for label in range(train.n_classes)]
    return components(train, np.concatenate(chosen))


def most_of(rare: np.ndarray) -> int:
    return min(int(0.8 * (~rare).sum()), MOST)


def rows_besides(train: Embeddings, draw: int) -> tuple[np.ndarray, np.ndarray]:
    """Of majority rows that `rows_with` leaves in this draw; half as many at most."""
    rare = minority_rows(train, train).numpy()
    order = np.random.default_rng(draw).permutation(len(rare))
    return components(train, order[~rare[order]][most_of(rare) :][: MOST // 2])


def components(train: Embeddings, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    part = train.take(torch.from_numpy(np.sort(rows)))
    return space_of(part).project(part), part.y.numpy()


def nulls(real: Mapping[str, Embeddings], rows: int, d: int) -> Iterator[tuple[str, Draw, Draw]]:
    """Names, and what draws the rows of train's gate and half as many others for validation's."""
    for law in LAWS:
        yield law, *(partial(one_cloud, law, rows=n, d=d) for n in (rows, rows // 2))
    for name, train in real.items():
        yield f"{name}, no minority row", partial(rows_with, train, 0), partial(rows_besides, train)


def measure_level(real: Mapping[str, Embeddings], draws: range, rows: int, d: int) -> None:
    cells = "one cloud per class | one division opens | train's gate | validation's gate | either | 95 % interval"
    print(f"| {cells} |\n| --- |{' ---: |' * 5}")
    for name, *makers in nulls(real, rows, d):
        p, of_val = (np.array([p_of_divisions(*make(draw)) for draw in draws]) for make in makers)
        opens = of_rule(p) <= (1 - VAL_SHARE) * LEVEL, of_rule(of_val) <= VAL_SHARE * LEVEL
        single = f"{100 * (p <= LEVEL).mean():.1f} %"
        print(
            f"| {name} | {single} | {opens[0].sum()} | {opens[1].sum()} | {counted(opens[0] | opens[1])} |", flush=True
        )
    print("\n| wrong labels | gate opens | guard passes | both | 95 % interval |\n| ---: | ---: | ---: | ---: | ---: |")
    for noise in NOISE:
        opens, passes = np.array([p_of_noise(noise, draw, rows, d) for draw in draws]).T <= [
            [LEVEL],
            [GUARD_SHARE * LEVEL],
        ]
        shares = f"{100 * opens.mean():.0f} % | {100 * passes.mean():.0f} %"
        print(f"| {100 * noise:g} % | {shares} | {counted(opens & passes)} |", flush=True)


def p_of_noise(noise: float, draw: int, rows: int, d: int) -> tuple[float, float]:
    """p of gate and guard where wrong labels are all that a class has beside its cloud."""
    rng, control = np.random.default_rng([draw, rows, d]), Control(class_gap=6, attribute_gap=0)
    train, val = (
        draw_rows(control, split, n, d, 0.5, noise, rng).without_attributes()
        for split, n in {"train": rows, "val": rows // 2}.items()
    )
    found = find_groups(train, val, fold_seeds=FOLD_SEEDS)
    return found.p_gate, found.p_guard


def measure_power(real: Mapping[str, Embeddings], draws: range, rows: int, d: int) -> pd.DataFrame:
    """One row per set and size of the minority: gates that open of n, which are printed, too."""
    given = {
        f"{distance} standard deviations": lambda minority, draw, distance=distance: two_clouds(
            distance, minority, draw, rows, d
        )
        for distance in DISTANCES
    }
    given |= {
        name: lambda minority, draw, train=train: rows_with(train, minority, [draw, minority])
        for name, train in real.items()
    }
    print("| clouds | minority rows a class | gates opened | 95 % interval |\n| --- | ---: | ---: | ---: |")
    found = []
    for name, make in given.items():
        for minority in MINORITY:
            if name in real and minority > smallest_minority(real[name]):
                continue
            opened = [of_rule(np.array(p_of_divisions(*make(minority, draw)))) <= LEVEL for draw in draws]
            found.append({"clouds": name, "minority": minority, "opened": sum(opened), "n": len(opened)})
            print(f"| {name} | {minority} | {counted(opened)} |", flush=True)
    return pd.DataFrame(found).assign(real=lambda table: table["clouds"].isin(list(real)))


def smallest_minority(train: Embeddings) -> int:
    return int(torch.bincount(train.y[minority_rows(train, train)], minlength=train.n_classes).min())


@styled()
def draw_power(table: pd.DataFrame) -> Figure:
    """Share of gates that open against the minority's size, a line per set; bars are 95 % intervals."""
    figure = Figure(figsize=(WIDTH, 2.8))
    panels = table.groupby("real", sort=True)
    for axis, (real, part) in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        for number, (name, of_set) in enumerate(part.groupby("clouds", sort=False)):
            look, share = of_group(number), of_set["opened"] / of_set["n"]
            ends = np.array([interval(*pair) for pair in zip(of_set["opened"], of_set["n"], strict=True)]).T
            bars = np.abs(ends - share.to_numpy())
            x = of_set["minority"] * (1 + 0.02 * number)
            axis.errorbar(x, 100 * share, 100 * bars, color=look.color, marker=look.marker, markersize=4, label=name)
        axis.set_xscale("log")
        axis.set_xticks(MINORITY, [str(size) for size in MINORITY])
        axis.minorticks_off()
        axis.set_xlabel("minority rows of a class")
        axis.set_title("train splits of networks" if real else "Gaussian clouds by distance")
        axis.legend(fontsize=7)
    figure.axes[0].set_ylabel("gates that open (%)")
    return figure
