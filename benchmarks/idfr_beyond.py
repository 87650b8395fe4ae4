"""IDFR where its assumption fails: more attribute values than classes, classes of unlike size, two attributes.

    python -m benchmarks.idfr_beyond [results/minibirds/run0 ...] [--draws 10] [--first 100]

Synthetic sets of two classes are drawn anew each time: 2,000 rows of train, 1,000 of validation, the agreement 0.95 and
0.9, and 4,000 of test with as many of each group; values of an attribute lie 6 standard deviations apart, classes 2.5.
Of a network's folder, or of {NAME}_train.npz and so on, train and validation are thinned. Worst of all groups of test
in percent; differences to DFR with all groups, and with those of the first attribute alone, are paired over draws.
"""

import argparse
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pandas as pd
import torch

from benchmarks.idfr import Case, called, measure_draw, read_splits
from benchmarks.negative_controls import mean_and_error
from hsfm.core.progress import quiet
from hsfm.features.embeddings import Embeddings
from hsfm.heads.erm_head import fit_head
from hsfm.heads.inferred_groups.attribute import FOLD_SEEDS
from hsfm.heads.inferred_groups.groups import search_train

D, CLASS_GAP, GAP = 20, 2.5, 6.0
AGREEMENTS = {"train": 0.95, "val": 0.9}
ROWS = {"train": 2000, "val": 1000, "test": 4000}


def two(a: float, b: float) -> np.ndarray:
    return np.array([[a, 1 - a], [1 - b, b]])


def with_others(a: float) -> np.ndarray:
    """Both classes have a third value as rarely as the other one's."""
    rest = (1 - a) / 2
    return np.array([[a, rest, rest], [rest, a, rest]])


# P(class and attribute values) by the agreement, up to a factor
SHARES = {
    "a value for each class": lambda a: two(a, a),
    "classes 85 to 15": lambda a: two(a, a) * [[0.85], [0.15]],
    "classes 95 to 5": lambda a: two(a, a) * [[0.95], [0.05]],
    "one class has both values equally": lambda a: two(0.5, a),
    "one value is common in both classes": lambda a: two(a, 1 - a),
    "3 values, one of no class": with_others,
    "4 values, two of each class": lambda a: np.repeat(two(a, a), 2, axis=1),
    "two attributes": lambda a: two(a, a)[:, :, None] * two(a, a)[:, None],
    "two attributes, the second nearer": lambda a: two(a, a)[:, :, None] * two(a, a)[:, None],
}
THINNED = ("a value for each class", "classes 85 to 15", "one class has both values equally")  # the rest keeps too few
GAPS = {"two attributes, the second nearer": (GAP, 4.0)}


def draw_rows(name: str, split: str, rng: np.random.Generator) -> Embeddings:
    """Rows by the shares of a set, its exact counts up to rounding; all attributes together are one."""
    shares = SHARES[name](AGREEMENTS.get(split, 0.5))
    shares = np.ones(shares.shape) if split == "test" else shares
    counts = np.maximum(np.rint(ROWS[split] * shares / shares.sum()).astype(int), 4)
    y, *attributes = (np.repeat(index.ravel(), counts.ravel()) for index in np.indices(counts.shape))
    x, axis = rng.normal(size=(len(y), D)), 1
    x[:, 0] += CLASS_GAP * (y - 0.5)
    for values, n, gap in zip(attributes, counts.shape[1:], GAPS.get(name, (GAP, GAP)), strict=False):
        x[:, axis : axis + n] += gap / np.sqrt(2) * np.eye(n)[values]
        axis += n
    together = np.ravel_multi_index(attributes, counts.shape[1:])
    return Embeddings(
        features=torch.from_numpy(x.astype(np.float32)),
        y=torch.from_numpy(y),
        attribute=torch.from_numpy(together),
        image_id=tuple(f"{split}-{row}" for row in range(len(y))),
        class_names=("first", "second"),
        attribute_names=tuple(f"value {value}" for value in range(counts[0].size)),
        dataset="beyond",
        split=split,
    )


def thinned(rows: Embeddings, shares: np.ndarray, rng: np.random.Generator) -> Embeddings:
    """As many rows as there are in these shares of groups."""
    group, shares = rows.group.numpy(), shares.ravel() / shares.sum()
    n = int((np.bincount(group, minlength=len(shares)) / np.maximum(shares, 1e-9)).min() + 1e-6)
    order = rng.permutation(len(group))
    kept = [order[group[order] == number][: round(n * share)] for number, share in enumerate(shares)]
    return rows.take(torch.from_numpy(np.sort(np.concatenate(kept))))


def cases(names: list[str], draws: range) -> Iterator[tuple[str, Iterator[Case]]]:
    def case(splits: list[Embeddings]) -> Case:
        trained = search_train(splits[0].without_attributes(), fold_seeds=FOLD_SEEDS)
        return Case(*splits, fit_head(splits[0])[0], trained)

    def thin(path: str, shares: str) -> Iterator[Case]:
        given = read_splits(path)[0]
        for draw in draws:
            rng = np.random.default_rng([draw, 4])
            pairs = zip(given, AGREEMENTS.values(), strict=False)
            yield case([*(thinned(part, SHARES[shares](a), rng) for part, a in pairs), given[2]])

    for name in SHARES:
        given = (np.random.default_rng([draw, 3]) for draw in draws)
        yield name, (case([draw_rows(name, split, rng) for split in ROWS]) for rng in given)
    for path in names:
        for shares in THINNED:
            yield f"{called(path)}, {shares}", thin(path, shares)


def only_first(case: Case) -> Case:
    """Groups of the first of two attributes of two values."""
    first = (
        replace(part, attribute=part.attribute // 2, attribute_names=("0", "1")) for part in (case.train, case.val)
    )
    return replace(case, **dict(zip(("train", "val"), first, strict=True)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks' folders, or files' paths up to _train.npz")
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    chosen = parser.parse_args()
    draws = range(chosen.first, chosen.first + chosen.draws)
    print("| set | LLR | IDFR | DFR, all groups | IDFR - LLR | IDFR - DFR | of the first attribute | branch |")
    print("| --- |" + " ---: |" * 6 + " --- |", flush=True)
    for name, of_set in cases(chosen.names, draws):
        rows = []
        with quiet():
            for draw, case in zip(draws, of_set, strict=True):
                row = measure_draw(case, case.val, case.test, draw, with_train=False)
                if name.startswith("two attributes"):
                    row["first"] = measure_draw(only_first(case), only_first(case).val, case.test, draw, False)["DFR"]
                rows.append(row)
        table = pd.DataFrame(rows)
        means = " | ".join(f"{table[method].mean():.1f}" for method in ("LLR", "IDFR", "DFR"))
        over = " | ".join(mean_and_error(table["IDFR"] - table[other]) for other in ("LLR", "DFR"))
        first = mean_and_error(table["IDFR"] - table["first"]) if "first" in table else ""
        branches = ", ".join(f"{branch} {n}" for branch, n in table["branch"].value_counts().items())
        print(f"| {name} | {means} | {over} | {first} | {branches} |", flush=True)


if __name__ == "__main__":
    main()
