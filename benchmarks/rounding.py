"""Effect of rounding on HSFM's trainings under fixed settings: heads in float32 and float64, compiled and by torch.

    python -m benchmarks.rounding results/minibirds/run0 [--epochs 1 5 10 20 40]

Reads ERM's heads and embeddings of one run. Per number of epochs, over three seeds under HSFM's defaults with
`tune: null`: the largest difference of a weight from the compiled training in float64, and how many hard rows of all
epochs differ.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from hsfm.core.progress import quiet
from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head, read_erm_features
from hsfm.heads.scorer import Scorer
from hsfm.methods.hsfm import outer_loop
from hsfm.methods.hsfm.outer_loop import Settings, Trial
from hsfm.methods.hsfm.train import MetaResult, train_trials

SEEDS = (0, 1, 2)
WAYS = {  # by column: bits, whether compiled, whether by the form that is not the cheaper one
    "float64, torch": (64, False, False),
    "float32, compiled": (32, True, False),
    "float32, torch": (32, False, False),
    "float32, torch, other form": (32, False, True),
}
OTHER = {"dual": "primal", "primal": "dual"}


def in_double(embeddings: Embeddings) -> Embeddings:
    return replace(embeddings, features=embeddings.features.double())


def trained(
    train: Embeddings, val: Embeddings, erm: Head, epochs: int, bits: int, compiled: bool, other: bool
) -> MetaResult:
    """The heads after the last epoch. Raises RuntimeError where nothing is compiled that should be."""
    import numba

    if bits == 64:
        train, val, erm = in_double(train), in_double(val), Head(erm.weight.double(), erm.bias.double())
    trials = [Trial(seed, Settings(tune=None, epochs=epochs), 128) for seed in SEEDS]
    cheaper = outer_loop.cheaper_form
    try:
        numba.config.DISABLE_JIT = int(not compiled)
        if other:
            outer_loop.cheaper_form = lambda *sizes: OTHER[cheaper(*sizes)]
        with quiet():
            result = train_trials(train, val, erm, trials, scorers={"": Scorer(val, "average")}, keep_from=epochs)[""]
    finally:
        numba.config.DISABLE_JIT, outer_loop.cheaper_form = 0, cheaper
    if compiled != (result.engine == "compiled"):
        raise RuntimeError(f"engine: {result.engine}")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run's results")
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 5, 10, 20, 40])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = {split: arguments.run / "erm" / "embeddings" / f"{split}.parquet" for split in ("train", "val")}
    saved, (train, val) = read_erm_features(arguments.run / "erm" / "heads.safetensors", **files)
    print("| epochs |", " | ".join(WAYS), "|")
    print("| ---: " * (1 + len(WAYS)) + "|")
    for epochs in arguments.epochs:
        reference, cells = trained(train, val, saved.head[0], epochs, 64, True, False), []
        for bits, compiled, other in WAYS.values():
            result = trained(train, val, saved.head[0], epochs, bits, compiled, other)
            difference = float((result.head.weight - reference.head.weight).abs().max())
            cells.append(f"{difference:.0e}, {int((result.hard_rows != reference.hard_rows).sum())}")
        print(f"| {epochs} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
