"""Time HSFM's engine against the plain autograd loop: one table, one process, random features.

    python -m benchmarks.meta [--device cuda] [--threads 1] [--shapes waterbirds celeba]

Per shape: seconds of a full training by the loop and, per trial, by the engine (the better of two), with their ratio;
the highest memory of the process so far; and what share of the engine's time two floors are, measured in the same
process: its multiplications at the rate of a large matrix product, and the bytes that its steps read and write, as if
nothing stayed in a cache, at the rate of a large copy. A share above 100 % means that the cache helped.
"""

import argparse
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks.paper import settings_of
from hsfm.features.embeddings import Embeddings
from hsfm.heads.hard_set import HardSetSettings
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.methods.hsfm.outer_loop import Settings, Trial, symbols
from hsfm.methods.hsfm.train import MetaResult, train_trials
from tests.methods.hsfm import autograd_loop


@dataclass(frozen=True)
class Shape:
    """Sizes of a dataset's features, HSFM's settings on it, and numbers of trials."""

    n_train: int
    n_val: int
    d: int
    settings: Settings
    hard_per_class: int
    counts: tuple[int, ...]


SHAPES = {
    "waterbirds": Shape(4795, 1199, 2048, *settings_of("waterbirds"), (1, 32)),
    "celeba": Shape(8192, 19867, 2048, *settings_of("celeba"), (1,)),
    "minibirds": Shape(4000, 1000, 128, Settings(), HardSetSettings().hard_per_class, (1, 32)),
}


def random_split(n: int, d: int, seed: int, device: torch.device) -> Embeddings:
    """Features of unit variance in which class and attribute show a little."""
    g = torch.Generator().manual_seed(seed)
    y, attribute = torch.arange(n) % 2, (torch.rand(n, generator=g) < 0.5).long()
    features = torch.randn(n, d, generator=g) * 0.5
    features[:, 0] += 2.0 * (y - 0.5)
    features[:, 1] += 4.0 * (attribute - 0.5)
    names = {"class_names": ("a", "b"), "attribute_names": ("x", "y")}
    return Embeddings(features, y, attribute, tuple(map(str, range(n))), **names).to(device)


def seconds(call: Callable[[], object], device: torch.device) -> float:
    if device.type != "cpu":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type != "cpu":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def rates(device: torch.device) -> tuple[float, float]:
    """Multiplications per second of a large float32 matrix product, and bytes per second of a large copy."""
    a, big = torch.randn(2048, 2048, device=device), torch.randn(2**26, device=device)
    target = torch.empty_like(big)
    product = min(seconds(lambda: a @ a, device) for _ in range(5))
    copy = min(seconds(lambda: target.copy_(big), device) for _ in range(5))
    return 2048**3 / product, 2 * big.nbytes / copy


def work(n: int, m: int, t: int, d: int) -> tuple[float, float]:
    """Multiplications and bytes of one meta-gradient of two classes and its Adam step, by the form that is taken.

    n support rows, m hard ones, t inner steps. Dual: the support is read for K, Z_0, S'H, H V' and the last product;
    primal: four times an inner step and for the last product. Adam reads support, gradient and moments and writes all
    but the gradient; the gradient is written and its norm read. The hard features are read twice.
    """
    dual, primal = 2 * n * n * d + 3 * n * d + 4 * t * n * n, 6 * t * n * d
    passes = (5 if dual < primal else 4 * t + 1) + 9
    return min(dual, primal) + 2 * m * d, 4 * (passes * n * d + 2 * m * d)


def measure(name: str, device: torch.device, product: float, copy: float) -> list[str]:
    shape, d = SHAPES[name], SHAPES[name].d
    train, val = random_split(shape.n_train, d, 0, device), random_split(shape.n_val, d, 1, device)
    weight = torch.zeros(2, d, device=device)
    weight[1, :2] = torch.tensor([0.2, 1.0])
    head = Head(weight, torch.zeros(2, device=device))
    of_paper = symbols(shape.settings)

    def trials(count: int, settings: Settings = shape.settings) -> list[Trial]:
        return [Trial(seed, settings, shape.hard_per_class) for seed in range(count)]

    def engine(trials: list[Trial]) -> MetaResult:
        return train_trials(train, val, head, trials, scorers={"kept": Scorer(val, "worst_group")})["kept"]

    warm_up = shape.settings.model_copy(update={"epochs": 1})
    autograd_loop.train(train, val, head, *trials(1, warm_up))
    plain = seconds(lambda: autograd_loop.train(train, val, head, *trials(1)).head.weight, device)
    lines = []
    for count in shape.counts:
        first = engine(trials(count, warm_up))
        n, m = first.support_rows.shape[1], first.hard_rows.shape[2]
        ours = min(seconds(lambda c=count: engine(trials(c)), device) for _ in range(2)) / count
        steps = shape.settings.epochs * of_paper["K_H"]
        multiplications, moved = work(n, m, of_paper["T"], d)
        lines.append(
            f"| {name} | {count} | {plain:.2f} | {ours:.3f} | {plain / ours:.1f} | {memory(device):.0f} "
            f"| {100 * steps * multiplications / product / ours:.0f} % | {100 * steps * moved / copy / ours:.0f} % |"
        )
    return lines


def memory(device: torch.device) -> float:
    """Highest so far, MB: of the device, or of this process on the CPU."""
    if device.type != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    product, copy = rates(device)
    print(
        f"torch {torch.__version__}, {device}, {arguments.threads} thread(s); "
        f"{product / 1e9:.0f} G multiplications/s, {copy / 1e9:.0f} GB/s copied\n"
    )
    print(
        "| shape | trials | loop, s per trial | engine, s per trial | ratio | memory, MB | product floor | copy floor |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in arguments.shapes:
        for line in measure(name, device, product, copy):
            print(line, flush=True)


if __name__ == "__main__":
    main()
