"""IDFR's gate and its heads: level on one cloud, power on two, and accuracy on embeddings of your own.

    python -m benchmarks.idfr level [--draws 100] [--rows 1000] [--d 20]
    python -m benchmarks.idfr power [--draws 20]
    python -m benchmarks.idfr accuracy FOLDER/dominoes_frozen FOLDER/style_tuned [--draws 4] [--rows 263] [--with-train]

`accuracy` reads {NAME}_train.npz, _val.npz and _test.npz with x, y, attribute, and draws subsamples of validation at
agreements 0.5, 0.9 and 0.95; a draw's number is the methods' seed. Worst group of test in percent; differences are
paired over draws, with their standard error. True groups are DFR's alone.
"""

import argparse
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from hsfm.analysis.sweep import accuracies
from hsfm.analysis.validation_bias import class_sizes, subsample
from hsfm.core.progress import quiet
from hsfm.features.embeddings import minority_rows
from hsfm.features.imported import import_embeddings
from hsfm.features.standardize import fit as standardization
from hsfm.heads.erm_head import fit_head
from hsfm.heads.inferred_groups.groups import TRAIN, TRAIN_FOLDS
from hsfm.heads.inferred_groups.two_clouds import p_two_clouds
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import dfr, idfr, llr

LAWS = {
    "gaussian": lambda rng, size: rng.normal(size=size),
    "logistic": lambda rng, size: rng.logistic(size=size),
    "uniform": lambda rng, size: rng.uniform(-1, 1, size=size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "t5": lambda rng, size: rng.standard_t(5, size=size),
    "t3": lambda rng, size: rng.standard_t(3, size=size),
}
AGREEMENTS = (0.5, 0.9, 0.95)
LEVEL = idfr.Settings().level


def p_gate(x: np.ndarray, y: np.ndarray) -> float:
    x = (x - x.mean(0)) / x.std(0)
    return p_two_clouds(x, y, seeds=idfr.Settings().fold_seeds, folds=TRAIN_FOLDS, **TRAIN)


def opened(p: list[float]) -> str:
    """Gates that open, their share and its 95 % interval (Clopper-Pearson)."""
    number = sum(value <= LEVEL for value in p)
    low, high = binomtest(number, len(p)).proportion_ci(method="exact")
    return f"{number} of {len(p)} | {100 * number / len(p):.1f} % | {100 * low:.1f} to {100 * high:.1f} %"


def measure_level(draws: int, rows: int, d: int) -> None:
    print("| law within a class | gates opened | share | 95 % interval |\n| --- | ---: | ---: | ---: |")
    for name, law in LAWS.items():
        p = []
        for draw in range(draws):
            rng = np.random.default_rng([draw, rows, d])
            y = np.arange(rows) % 2
            x = law(rng, (rows, d))
            x[:, 0] += 3 * (y - 0.5)  # the classes, of which one cloud each
            p.append(p_gate(x, y))
        print(f"| {name} | {opened(p)} |", flush=True)


def measure_power(draws: int, rows: int, d: int) -> None:
    print("| distance, standard deviations | minority rows a class | gates opened | share | 95 % interval |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for distance in (3, 4, 5, 6):
        for minority in (5, 15, 50):
            p = []
            for draw in range(draws):
                rng = np.random.default_rng([draw, distance, minority])
                y = np.arange(rows) % 2
                attribute = np.where(np.arange(rows) < 2 * minority, 1 - y, y)
                x = rng.normal(size=(rows, d))
                x[:, 0] += distance * (attribute - 0.5)
                x[:, 1] += 2 * (y - 0.5)
                p.append(p_gate(x, y))
            print(f"| {distance} | {minority} | {opened(p)} |", flush=True)


def measure_accuracy(name: str, draws: int, rows: int, with_train: bool) -> pd.DataFrame:
    """One row per agreement and draw: worst group of test by method, branch and seconds of IDFR."""
    paths = {split: f"{name}_{split}.npz" for split in ("train", "val", "test")}
    splits = import_embeddings(paths, name.rpartition("/")[2])
    scaled = standardization(splits["train"].features, scale=0.5)  # as config/frozen.yaml has it
    train, val, test = (replace(part, features=scaled.apply(part.features)) for part in splits.values())
    minority = minority_rows(train, val)
    sizes = [min(size, rows) for size in class_sizes(val, minority, AGREEMENTS)]
    with quiet():
        erm, measured = fit_head(train)[0], []
        methods = {"LLR": (llr, {}), "IDFR": (idfr, {}), "DFR": (dfr, {})}
        if with_train:
            methods["IDFR, train too"] = (idfr, {"with_train": True})
        for agreement in AGREEMENTS:
            for draw in range(draws):
                part = subsample(val, minority, sizes, agreement, torch.Generator().manual_seed(draw))
                row = {"agreement": agreement}
                for label, (method, settings) in methods.items():
                    start = time.perf_counter()
                    fit, _ = fit_supervised(
                        method, train, part, erm, settings=method.Settings(**settings), seeds=[draw]
                    )
                    row[label] = 100 * float(accuracies(fit.head, test)["worst_group"][0])
                    if label == "IDFR":
                        row |= {"branch": fit.settings["branch"], "seconds": time.perf_counter() - start}
                measured.append(row)
    return pd.DataFrame(measured)


def shown(table: pd.DataFrame, name: str) -> str:
    def difference(a: str, b: str) -> str:
        values = table[a] - table[b]
        return f"{values.mean():+.1f} ± {values.sem():.1f}"

    methods = [column for column in table if column not in ("agreement", "branch", "seconds")]
    means = " | ".join(f"{table[method].mean():.1f}" for method in methods)
    branches = ", ".join(f"{branch} {n}" for branch, n in table["branch"].value_counts().items())
    paired = f"{difference('IDFR', 'DFR')} | {difference('IDFR', 'LLR')}"
    return (
        f"| {name} | {table['agreement'].iloc[0]} | {means} | {paired} | {branches} | {table['seconds'].mean():.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for part, draws in (("level", 100), ("power", 20)):
        of_part = parts.add_parser(part)
        of_part.add_argument("--draws", type=int, default=draws)
        of_part.add_argument("--rows", type=int, default=1000)
        of_part.add_argument("--d", type=int, default=20)
    of_part = parts.add_parser("accuracy")
    of_part.add_argument("names", nargs="+", help="files' paths up to _train.npz")
    of_part.add_argument("--draws", type=int, default=4)
    of_part.add_argument("--rows", type=int, default=263, help="most validation rows of a class")
    of_part.add_argument("--with-train", action="store_true", help="IDFR's head on train and validation rows, too")
    chosen = parser.parse_args()
    if chosen.part != "accuracy":
        measure = {"level": measure_level, "power": measure_power}[chosen.part]
        measure(chosen.draws, chosen.rows, chosen.d)
        return
    more = " | IDFR, train too" if chosen.with_train else ""
    print(f"| set | agreement | LLR | IDFR | DFR{more} | IDFR - DFR | IDFR - LLR | branch | seconds |")
    print(f"| --- | ---: | ---: | ---: | ---:{' | ---:' if more else ''} | ---: | ---: | --- | ---: |", flush=True)
    for name in chosen.names:
        for _, table in measure_accuracy(name, chosen.draws, chosen.rows, chosen.with_train).groupby("agreement"):
            print(shown(table.reset_index(drop=True), name.rpartition("/")[2]), flush=True)


if __name__ == "__main__":
    main()
