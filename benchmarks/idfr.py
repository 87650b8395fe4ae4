"""IDFR's gate and its heads: level on one cloud, power on two, and accuracy on embeddings of your own.

    python -m benchmarks.idfr level [--draws 100] [--rows 1000] [--d 20]
    python -m benchmarks.idfr power [--draws 20]
    python -m benchmarks.idfr accuracy FOLDER/dominoes_frozen FOLDER/style_tuned [--draws 4] [--rows 263] [--with-train]

`accuracy` reads {NAME}_train.npz, _val.npz and _test.npz with x, y, attribute, and draws subsamples of validation at
agreements 0.5, 0.9 and 0.95; a draw's number is the methods' seed. Worst group of test in percent; differences are
paired over draws, with their standard error. True groups are DFR's alone.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from scipy.stats import binomtest

from hsfm.analysis.sweep import accuracies
from hsfm.analysis.validation_bias import class_sizes, subsample
from hsfm.core.progress import quiet
from hsfm.features.embeddings import Embeddings, joined, minority_rows
from hsfm.features.imported import import_embeddings
from hsfm.features.standardize import fit as standardization
from hsfm.heads.erm_head import fit_head
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head, read_erm_features
from hsfm.heads.inferred_groups.groups import TRAIN, TRAIN_FOLDS, Trained, carry_over, search_train
from hsfm.heads.inferred_groups.two_clouds import p_two_clouds
from hsfm.heads.supervision import fit_supervised, scorer_of
from hsfm.methods import cb_llr, dfr, idfr, llr
from hsfm.methods.idfr.fit import fit_found

LAWS = {
    "gaussian": lambda rng, size: rng.normal(size=size),
    "logistic": lambda rng, size: rng.logistic(size=size),
    "uniform": lambda rng, size: rng.uniform(-1, 1, size=size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "t5": lambda rng, size: rng.standard_t(5, size=size),
    "t3": lambda rng, size: rng.standard_t(3, size=size),
}
SPLITS = ("train", "val", "test")
METHODS = ("LLR", "CB-LLR", "IDFR", "DFR", "IDFR, train too")
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


@dataclass(frozen=True)
class Case:
    """A data set, and what was found on its train split, which no draw of validation changes."""

    train: Embeddings
    val: Embeddings
    test: Embeddings
    erm: Head
    trained: Trained


def read_case(name: str) -> Case:
    """{name}_train.npz and so on, standardized as config/frozen.yaml has it; or a run's folder of the workflow."""
    if Path(name).is_dir():
        paths = {split: f"{name}/erm/embeddings/{split}.parquet" for split in SPLITS}
        saved, splits = read_erm_features(f"{name}/erm/heads.safetensors", **paths)
        erm = saved.head[0]
    else:
        given = import_embeddings({split: f"{name}_{split}.npz" for split in SPLITS}, name.rpartition("/")[2])
        scaled = standardization(given["train"].features, scale=0.5)
        splits = [replace(part, features=scaled.apply(part.features)) for part in given.values()]
        erm = fit_head(splits[0])[0]
    return Case(*splits, erm, search_train(splits[0].without_attributes(), fold_seeds=idfr.Settings().fold_seeds))


def draw_splits(
    case: Case, agreement: float, draw: int, rows: int, from_test: int
) -> tuple[Embeddings, Embeddings]:  # fmt: skip
    """Validation rows of this agreement, and the rows of test that are left."""
    generator = torch.Generator().manual_seed(draw)
    val, test = case.val, case.test
    if from_test:
        order = torch.randperm(len(test.y), generator=generator)
        rank = torch.from_numpy(pd.Series(test.group[order]).groupby(test.group[order].numpy()).cumcount().to_numpy())
        val, test = joined(val, test.take(order[rank < from_test])), test.take(order[rank >= from_test])
    minority = minority_rows(case.train, val)
    sizes = [min(size, rows) for size in class_sizes(val, minority, AGREEMENTS)]
    return subsample(val, minority, sizes, agreement, generator), test


def measure_draw(case: Case, part: Embeddings, test: Embeddings, seed: int, with_train: bool) -> dict:
    """Worst group of test by method, and IDFR's branch."""
    train, seeds = case.train, [seed]

    def worst(fit: Fit) -> float:
        return 100 * float(accuracies(fit.head, test)["worst_group"][0])

    row = {
        label: worst(fit_supervised(method, train, part, case.erm, settings=method.Settings(), seeds=seeds)[0])
        for label, method in {"LLR": llr, "CB-LLR": cb_llr, "DFR": dfr}.items()
    }
    hidden = train.without_attributes(), part.without_attributes()
    found = carry_over(case.trained, hidden[1])
    for label, joins in {"IDFR": False, "IDFR, train too": True}.items():
        if with_train or not joins:
            settings = idfr.Settings(with_train=joins)
            how = {"settings": settings, "seeds": seeds, "scorer": scorer_of(settings, *hidden)}
            fit = fit_found(found, *hidden, case.erm, **how)
            row |= {label: worst(fit), "branch": fit.settings["branch"]}
    return row


def measure_accuracy(name: str, chosen: argparse.Namespace) -> pd.DataFrame:
    """One row per agreement and draw: minority rows a class, and `measure_draw`."""
    case, measured = read_case(name), []
    for agreement in AGREEMENTS:
        for draw in range(chosen.first, chosen.first + chosen.draws):
            part, test = draw_splits(case, agreement, draw, chosen.rows, chosen.from_test)
            minority = torch.bincount(part.y[minority_rows(case.train, part)])
            row = {"agreement": agreement, "draw": draw, "minority": int(minority.min())}
            measured.append(row | measure_draw(case, part, test, draw, chosen.with_train))
    return pd.DataFrame(measured)


def shown(table: pd.DataFrame, name: str) -> str:
    def difference(a: str, b: str) -> str:
        values = table[a] - table[b]
        return f"{values.mean():+.1f} ± {values.sem():.1f}"

    first = table.iloc[0]
    methods = [method for method in METHODS if method in table]
    cells = [name, f"{first['agreement']:g}", f"{first['minority']}"]
    cells += [f"{table[method].mean():.1f}" for method in methods]
    cells += [difference("IDFR", "DFR"), f"{100 * (table['IDFR'] - table['DFR'] >= -3).mean():.0f} %"]
    cells += [difference(label, "DFR") for label in methods[4:]]
    cells += [difference("IDFR", "LLR"), ", ".join(f"{b} {n}" for b, n in table["branch"].value_counts().items())]
    return f"| {' | '.join(cells)} |"


def head_of(with_train: bool) -> str:
    methods = METHODS if with_train else METHODS[:4]
    of_dfr = ["IDFR - DFR", "at least -3", *(f"{label} - DFR" for label in methods[4:])]
    cells = ["set", "agreement", "minority", *methods, *of_dfr, "IDFR - LLR", "branch"]
    return f"| {' | '.join(cells)} |\n| --- |{' ---: |' * (len(cells) - 2)} --- |"


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
    of_part.add_argument("--first", type=int, default=0, help="number of the first draw")
    of_part.add_argument("--rows", type=int, default=263, help="most validation rows of a class")
    of_part.add_argument("--from-test", type=int, default=0, help="rows of each test group that join validation")
    of_part.add_argument("--with-train", action="store_true", help="IDFR's head on train and validation rows, too")
    of_part.add_argument("--csv", help="file to which the numbers of every draw are added")
    chosen = parser.parse_args()
    if chosen.part != "accuracy":
        measure = {"level": measure_level, "power": measure_power}[chosen.part]
        measure(chosen.draws, chosen.rows, chosen.d)
        return
    print(head_of(chosen.with_train), flush=True)
    for path in chosen.names:
        name = "/".join(Path(path).parts[-2:]) if Path(path).is_dir() else Path(path).name
        with quiet():
            table = measure_accuracy(path, chosen)
        for _, part in table.groupby("agreement"):
            print(shown(part.reset_index(drop=True), name), flush=True)
        if chosen.csv:
            there = Path(chosen.csv).exists()
            table.assign(set=name).to_csv(chosen.csv, mode="a", header=not there, index=False)


if __name__ == "__main__":
    main()
