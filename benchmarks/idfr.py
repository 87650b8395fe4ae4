"""IDFR's gate and its heads: level on one cloud, power on two, and accuracy on embeddings of your own.

    python -m benchmarks.idfr level [FOLDER/style_tuned] [--draws 100] [--rows 1000] [--d 20]
    python -m benchmarks.idfr power [FOLDER/style_tuned] [--draws 20] [--out power.png]
    python -m benchmarks.idfr time [--shapes 162770x19867x2048]
    python -m benchmarks.idfr hints [FOLDER/lesions_frozen] [--draws 10]
    python -m benchmarks.idfr accuracy FOLDER/dominoes_frozen FOLDER/style_tuned [--draws 4] [--rows 263] [--with-train]

`level` and `power` take train splits: without their minority rows, and with some of them. `accuracy` reads
{NAME}_train.npz, _val.npz and _test.npz with x, y, attribute, and draws subsamples of validation at agreements 0.5, 0.9
and 0.95; a draw's number is the methods' seed. Worst group of test in percent; differences are paired over draws, with
their standard error. True groups are DFR's alone; `DFR by another seed` is how often that is at least -3 points of it.
"""

import argparse
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import LogisticRegression

from benchmarks.idfr_gate import draw_power, measure_level, measure_power
from benchmarks.negative_controls import Control, draw_rows
from hsfm.analysis.sweep import accuracies
from hsfm.analysis.validation_bias import class_sizes, subsample
from hsfm.core.progress import quiet
from hsfm.features.embeddings import Embeddings, NotApplicable, joined, minority_rows
from hsfm.features.imported import import_embeddings
from hsfm.features.standardize import fit as standardization
from hsfm.heads.erm_head import fit_head
from hsfm.heads.fit import Fit
from hsfm.heads.head import Head, read_erm_features
from hsfm.heads.inferred_groups.attribute import FOLD_SEEDS
from hsfm.heads.inferred_groups.groups import Trained, groups_of, search_train
from hsfm.heads.supervision import Labeler, fit_supervised, scorer_of
from hsfm.methods import cb_llr, dfr, idfr, llr
from hsfm.methods.idfr.fit import fit_found
from hsfm.report.figures import save

SPLITS = ("train", "val", "test")
METHODS = ("LLR", "CB-LLR", "IDFR", "DFR", "IDFR, train too")
AGAIN, SHIFT = "DFR again", 1000  # by another seed: what chance alone does
AGREEMENTS = (0.5, 0.9, 0.95)
HINTS = (0, 5, 10, 20, 50)
HINTED = {  # None: four classes and four values
    "overlapping attribute": Control(attribute_gap=3),
    "5 % wrong labels beside an overlapping attribute": Control(attribute_gap=3, noise=0.05),
    "5 % wrong labels beside an attribute": Control(noise=0.05),
    "4 x 4": None,
}


@dataclass(frozen=True)
class Case:
    """A data set, and what was found on its train split, which no draw of validation changes."""

    train: Embeddings
    val: Embeddings
    test: Embeddings
    erm: Head
    trained: Trained


def read_splits(name: str) -> tuple[list[Embeddings], Head]:
    """Train, val, test and ERM's head of {name}_train.npz and so on, standardized as config/frozen.yaml has it; or of a
    run's folder of the workflow.
    """
    if Path(name).is_dir():
        paths = {split: f"{name}/erm/embeddings/{split}.parquet" for split in SPLITS}
        saved, splits = read_erm_features(f"{name}/erm/heads.safetensors", **paths)
        erm = saved.head[0]
    else:
        given = import_embeddings({split: f"{name}_{split}.npz" for split in SPLITS}, name.rpartition("/")[2])
        scaled = standardization(given["train"].features, scale=0.5)
        splits = [replace(part, features=scaled.apply(part.features)) for part in given.values()]
        erm = fit_head(splits[0])[0]
    return splits, erm


def read_case(name: str) -> Case:
    splits, erm = read_splits(name)
    return Case(*splits, erm, search_train(splits[0].without_attributes(), fold_seeds=FOLD_SEEDS))


def called(path: str) -> str:
    return "/".join(Path(path).parts[-2:]) if Path(path).is_dir() else Path(path).name


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
    """Worst group of test by method, IDFR's branch and tests, and rows whose attribute was found wrong."""
    train, seeds = case.train, [seed]

    def worst(fit: Fit) -> float:
        return 100 * float(accuracies(fit.head, test)["worst_group"][0])

    known = {"LLR": llr, "CB-LLR": cb_llr, "DFR": dfr, AGAIN: dfr}
    row = {
        label: worst(fit_supervised(method, train, part, case.erm, settings=method.Settings(), seeds=of)[0])
        for (label, method), of in zip(known.items(), (seeds, seeds, seeds, [seed + SHIFT]), strict=True)
    }
    hidden = train.without_attributes(), part.without_attributes()
    found = groups_of(case.trained, *hidden, fold_seeds=FOLD_SEEDS)
    wrong = found.val != part.attribute.numpy()
    row |= {**found.numbers, "wrong": wrong.sum(), "wrong_of_minority": wrong[minority_rows(train, part).numpy()].sum()}
    for label, joins in {"IDFR": False, "IDFR, train too": True}.items():
        if with_train or not joins:
            settings = idfr.Settings(with_train=joins)
            how = {"settings": settings, "seeds": seeds, "scorer": scorer_of(settings, *hidden)}
            fit = fit_found(found, *hidden, case.erm, **how)
            row |= {label: worst(fit), "branch": fit.settings["branch"]}
    return row


def several(split: str, n: int, agreement: float, gap: float, rng: np.random.Generator, c: int = 4) -> Embeddings:
    """Rows of c classes and c attribute values, of which one goes with each class; its means lie `gap` apart."""
    y = np.arange(n) % c
    shift = np.where(rng.uniform(size=n) < agreement, 0, rng.integers(1, c, size=n))
    attribute = (y + shift) % c
    x = rng.normal(size=(n, 20)) + np.sqrt(0.5) * (gap * np.eye(20)[attribute] + 3 * np.eye(20)[c + y])
    names = tuple(f"value {value}" for value in range(c))
    ids = tuple(f"{split}-{row}" for row in range(n))
    labels = {"y": torch.from_numpy(y), "attribute": torch.from_numpy(attribute)}
    of = {"dataset": "several", "split": split, "class_names": names, "attribute_names": names}
    return Embeddings(torch.from_numpy(x.astype(np.float32)), **labels, image_id=ids, **of)


def synthetic(name: str, draw: int) -> Case:
    """A set of HINTED, drawn anew: 1,000 rows of train, 500 of validation with an agreement of 0.9."""
    rng = np.random.default_rng([draw, 2])
    shares = {"train": (1000, 0.95), "val": (500, 0.9), "test": (4000, 0.5)}
    control = HINTED[name]
    if control is None:
        shares |= {"train": (2000, 0.95), "val": (1000, 0.9)}
        splits = [several(split, n, share if split != "test" else 0.25, 4, rng) for split, (n, share) in shares.items()]
    else:
        noise = {"train": control.noise, "val": control.noise, "test": 0}
        splits = [draw_rows(control, split, n, 20, share, noise[split], rng) for split, (n, share) in shares.items()]
    trained = search_train(splits[0].without_attributes(), fold_seeds=FOLD_SEEDS)
    return Case(*splits, fit_head(splits[0])[0], trained)


def probed(part: Embeddings, rows: np.ndarray) -> Embeddings:
    """Attributes by a logistic regression on some rows' features and class, which is what SSA begins with."""
    x = np.column_stack([part.features.numpy(), np.eye(part.n_classes)[part.y.numpy()]])
    known = part.attribute.numpy()
    found = LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000).fit(x[rows], known[rows]).predict(x)
    found[rows] = known[rows]
    return replace(part, attribute=torch.from_numpy(found))


def measure_hints(draws: int, first: int, names: list[str]) -> None:
    """Worst group of test by the number of hints, of IDFR and of DFR on the groups that a probe gives all rows."""
    print(f"| set | head | {' | '.join(f'{n} labels a class' for n in HINTS)} | DFR, all labels |")
    print(f"| --- | --- |{' ---: |' * (len(HINTS) + 1)}", flush=True)
    given = {name: read_case(name) for name in names}
    for name in (*HINTED, *names):
        rows = []
        for draw in range(first, first + draws):
            case = given.get(name) or synthetic(name, draw)
            part, test = draw_splits(case, 0.9, draw, 263, 0) if name in given else (case.val, case.test)
            rows.append(measure_hinted(case, part, test, draw))
        table = pd.DataFrame(rows)
        for label in ("IDFR", "probe"):
            cells = [f"{table[label, n].mean():.1f}" for n in HINTS if (label, n) in table]
            blank = ["" for n in HINTS if (label, n) not in table]
            if label == "IDFR":
                shares = [f" ({100 * table['dfr', n].mean():.0f} %)" for n in HINTS]
                cells = [cell + share for cell, share in zip(cells, shares, strict=True)]
            cells += [f"{table['DFR', 'all'].mean():.1f}"]
            print(f"| {name.rpartition('/')[2]} | {label} | {' | '.join([*blank, *cells])} |", flush=True)


def measure_hinted(case: Case, part: Embeddings, test: Embeddings, seed: int) -> dict:
    def worst(fit: Fit) -> float:
        return 100 * float(accuracies(fit.head, test)["worst_group"][0])

    def of_groups(val: Embeddings) -> float:
        try:
            return worst(fit_supervised(dfr, case.train, val, case.erm, settings=dfr.Settings(), seeds=[seed])[0])
        except NotApplicable:  # the probe gives a group no image, or one
            return np.nan

    hidden, row = (case.train.without_attributes(), part.without_attributes()), {("DFR", "all"): of_groups(part)}
    found = groups_of(case.trained, *hidden, fold_seeds=FOLD_SEEDS)
    for n in HINTS:
        settings = idfr.Settings(hints=n)
        how = {"settings": settings, "seeds": [seed], "scorer": scorer_of(settings, case.train, part)}
        fit = fit_found(found, *hidden, case.erm, **how, label_of=Labeler(part, n) if n else None)
        row |= {("IDFR", n): worst(fit), ("dfr", n): fit.settings["branch"] == "dfr"}
        rows = fit.tables["groups_found"]["hinted"].to_numpy().nonzero()[0]
        if n and len(set(part.attribute.numpy()[rows])) > 1:
            row["probe", n] = of_groups(probed(part, rows))
    return row


def measure_time(rows: int, val_rows: int, d: int) -> str:
    """Seconds of processor and of wall clock of a whole fit of one seed, on an attribute that is found and on none."""
    cells = [f"{rows:,}", f"{val_rows:,}", f"{d:,}"]
    for gap in (12, 0):
        splits = []
        for number, (split, n) in enumerate({"train": rows, "val": val_rows}.items()):
            rng = np.random.default_rng([number, rows, d])
            y = np.arange(n) % 2
            attribute = np.where(rng.uniform(size=n) < 0.06, 1 - y, y)
            x = rng.standard_normal((n, d), dtype=np.float32)
            # on all axes, for one axis among many of equal spread is no principal one
            sign = np.where(np.arange(d) % 2, 1, -1)
            x += ((gap * (attribute - 0.5))[:, None] + 2.5 * np.outer(y - 0.5, sign)).astype(np.float32) / np.float32(
                np.sqrt(d)
            )
            of = {"class_names": ("a", "b"), "image_id": tuple(map(str, range(n))), "split": split}
            splits.append(Embeddings(torch.from_numpy(x), torch.from_numpy(y), torch.full((n,), -1), **of))
        erm = Head(torch.zeros(2, d), torch.zeros(2))
        start = time.process_time(), time.perf_counter()
        fit, _ = fit_supervised(idfr, *splits, erm, settings=idfr.Settings(), seeds=[0])
        spent = time.process_time() - start[0], time.perf_counter() - start[1]
        cells += [fit.settings["branch"], *(f"{seconds:.1f}" for seconds in spent)]
    return f"| {' | '.join(cells)} |"


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
    cells += [difference("IDFR", "DFR")]
    cells += [f"{100 * (table[method] - table['DFR'] >= -3).mean():.0f} %" for method in ("IDFR", AGAIN)]
    cells += [difference(label, "DFR") for label in methods[4:]]
    cells += [difference("IDFR", "LLR"), ", ".join(f"{b} {n}" for b, n in table["branch"].value_counts().items())]
    return f"| {' | '.join(cells)} |"


def head_of(with_train: bool) -> str:
    methods = METHODS if with_train else METHODS[:4]
    of_dfr = ["IDFR - DFR", "at least -3", "DFR by another seed", *(f"{label} - DFR" for label in methods[4:])]
    cells = ["set", "agreement", "minority", *methods, *of_dfr, "IDFR - LLR", "branch"]
    return f"| {' | '.join(cells)} |\n| --- |{' ---: |' * (len(cells) - 2)} --- |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    for part, draws in (("level", 100), ("power", 20)):
        of_part = parts.add_parser(part)
        of_part.add_argument("names", nargs="*", help="as of accuracy: train splits, beside synthetic rows")
        of_part.add_argument("--draws", type=int, default=draws)
        of_part.add_argument("--first", type=int, default=0, help="number of the first draw")
        if part == "power":
            of_part.add_argument("--out", help="file of the figure")
        of_part.add_argument("--rows", type=int, default=1000)
        of_part.add_argument("--d", type=int, default=20)
    of_part = parts.add_parser("time")
    of_part.add_argument("--shapes", nargs="+", default=["1000x500x128", "1000x500x1280"], help="train x val x d")
    of_part = parts.add_parser("hints")
    of_part.add_argument("names", nargs="*", help="as of accuracy, beside synthetic sets")
    of_part.add_argument("--draws", type=int, default=10)
    of_part.add_argument("--first", type=int, default=0, help="number of the first draw")
    of_part = parts.add_parser("accuracy")
    of_part.add_argument("names", nargs="+", help="files' paths up to _train.npz")
    of_part.add_argument("--draws", type=int, default=4)
    of_part.add_argument("--first", type=int, default=0, help="number of the first draw")
    of_part.add_argument("--rows", type=int, default=263, help="most validation rows of a class")
    of_part.add_argument("--from-test", type=int, default=0, help="rows of each test group that join validation")
    of_part.add_argument("--with-train", action="store_true", help="IDFR's head on train and validation rows, too")
    of_part.add_argument("--csv", help="file to which the numbers of every draw are added")
    chosen = parser.parse_args()
    if chosen.part == "time":
        print(
            "| train rows | validation rows | d | branch | processor, s | wall, s | branch | processor, s | wall, s |"
        )
        print("| ---: | ---: | ---: | --- | ---: | ---: | --- | ---: | ---: |", flush=True)
        with quiet():
            for shape in chosen.shapes:
                print(measure_time(*map(int, shape.split("x"))), flush=True)
        return
    if chosen.part == "hints":
        with quiet():
            measure_hints(chosen.draws, chosen.first, chosen.names)
        return
    if chosen.part != "accuracy":
        with quiet():
            real = {called(path): read_splits(path)[0][0] for path in chosen.names}
        how = real, range(chosen.first, chosen.first + chosen.draws), chosen.rows, chosen.d
        if chosen.part == "level":
            measure_level(*how)
            return
        found = measure_power(*how)
        if chosen.out:
            save(draw_power(found), chosen.out)
        return
    print(head_of(chosen.with_train), flush=True)
    for path in chosen.names:
        name = called(path)
        with quiet():
            table = measure_accuracy(path, chosen)
        for _, part in table.groupby("agreement"):
            print(shown(part.reset_index(drop=True), name), flush=True)
        if chosen.csv:
            there = Path(chosen.csv).exists()
            table.assign(set=name).to_csv(chosen.csv, mode="a", header=not there, index=False)


if __name__ == "__main__":
    main()
