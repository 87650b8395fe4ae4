"""IDFR and the rule inferred_group where there is no minority to find, or none that can be found.

    python -m benchmarks.negative_controls ["no correlation" ...] [--draws 10] [--first 0] [--rows 1000] [--d 20]

Every draw makes train, validation and test anew, with as many test rows of each class and attribute, whose labels are
right. Worst group of test in percent, mean ± standard error over draws; differences are paired by draw. No group label
is read but to score.
"""

import argparse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
import torch

from hsfm.analysis.sweep import accuracies
from hsfm.core.progress import quiet
from hsfm.features.embeddings import Embeddings
from hsfm.heads.erm_head import fit_head
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import idfr, llr


@dataclass(frozen=True)
class Control:
    """Two classes of Gaussian rows; distances in standard deviations."""

    class_gap: float = 2.5
    attribute_gap: float = 6.0  # of its two values; 0 where features do not show it
    agreement: float = 0.95  # of attribute and class in train
    noise: float = 0.0  # share of wrong labels in train and validation


CONTROLS = {
    "no correlation": Control(agreement=0.5),
    "5 % wrong labels, no attribute": Control(class_gap=6, attribute_gap=0, noise=0.05),
    "10 % wrong labels, no attribute": Control(class_gap=6, attribute_gap=0, noise=0.1),
    "5 % wrong labels beside an attribute": Control(noise=0.05),
    "10 % wrong labels beside an attribute": Control(noise=0.1),
    "attribute learnt late": Control(class_gap=5, attribute_gap=2),
    "attribute that nobody sees": Control(attribute_gap=0),
}
AGREEMENTS = (0.5, 0.9)  # of validation


def draw_rows(
    control: Control, split: str, n: int, d: int, agreement: float, noise: float, rng: np.random.Generator
) -> Embeddings:
    """Rows of both classes in turn, an exact share of each with the attribute that goes with it."""
    y = np.arange(n) % 2
    attribute = np.where(np.arange(n) // 2 < round(agreement * (n // 2)), y, 1 - y)
    x = rng.normal(size=(n, d))
    x[:, 0] += control.attribute_gap * (attribute - 0.5)
    x[:, 1] += control.class_gap * (y - 0.5)
    y = np.where(rng.uniform(size=n) < noise, 1 - y, y)
    names = ("first", "second")
    return Embeddings(
        features=torch.from_numpy(x.astype(np.float32)),
        y=torch.from_numpy(y),
        attribute=torch.from_numpy(attribute),
        image_id=tuple(f"{split}-{row}" for row in range(n)),
        class_names=names,
        attribute_names=names,
        dataset="control",
        split=split,
    )


def measure(
    control: Control,
    agreement: float,
    draws: Iterable[int],
    *,
    rows: int,
    d: int,
    quick: Mapping[str, Any] = MappingProxyType({}),
) -> pd.DataFrame:
    """One row per draw: test worst group of ERM, LLR, LLR by inferred groups and IDFR, in percent, and IDFR's branch.

    rows: of train; validation has half of them. quick: settings of LLR and IDFR that are not the defaults.
    """
    found = []
    for draw in draws:
        rng = np.random.default_rng([draw, rows, d, round(100 * agreement)])
        how = {"d": d, "rng": rng, "control": control}
        train = draw_rows(split="train", n=rows, agreement=control.agreement, noise=control.noise, **how)
        val = draw_rows(split="val", n=rows // 2, agreement=agreement, noise=control.noise, **how)
        test = draw_rows(split="test", n=4000, agreement=0.5, noise=0, **how)
        methods = {
            "LLR": (llr, {}), "LLR, inferred": (llr, {"select_by": "inferred_group"}), "IDFR": (idfr, {})
        }  # fmt: skip
        with quiet():
            erm = fit_head(train)
            row = {"ERM": 100 * float(accuracies(erm, test)["worst_group"][0])}
            for label, (method, settings) in methods.items():
                known = {name: value for name, value in quick.items() if name in method.Settings.model_fields}
                settings = method.Settings(**{**known, **settings})
                fit, _ = fit_supervised(method, train, val, erm[0], settings=settings, seeds=[draw])
                row[label] = 100 * float(accuracies(fit.head, test)["worst_group"][0])
        found.append({**row, "branch": fit.settings["branch"]})
    return pd.DataFrame(found)


def mean_and_error(values: pd.Series) -> str:
    return f"{values.mean():.1f} ± {values.sem():.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "controls", nargs="*", metavar="CONTROL", help="all by default: " + "; ".join(CONTROLS).replace("%", "%%")
    )
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument("--rows", type=int, default=1000, help="of train; validation has half of them")
    parser.add_argument("--d", type=int, default=20, help="features")
    chosen = parser.parse_args()
    print("| control | validation | ERM | LLR | LLR, inferred | IDFR | IDFR - LLR | IDFR - ERM | IDFR's branch |")
    print(f"| --- | ---: {'| ---: ' * 6}| --- |", flush=True)
    draws = range(chosen.first, chosen.first + chosen.draws)
    for name in chosen.controls or CONTROLS:
        for agreement in AGREEMENTS:
            table = measure(CONTROLS[name], agreement, draws, rows=chosen.rows, d=chosen.d)
            means = " | ".join(f"{table[label].mean():.1f}" for label in ("ERM", "LLR", "LLR, inferred", "IDFR"))
            over = " | ".join(mean_and_error(table["IDFR"] - table[other]) for other in ("LLR", "ERM"))
            branches = ", ".join(f"{branch} {n}" for branch, n in table["branch"].value_counts().items())
            print(f"| {name} | {100 * agreement:g} % | {means} | {over} | {branches} |", flush=True)


if __name__ == "__main__":
    main()
