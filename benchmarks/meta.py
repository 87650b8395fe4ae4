"""Time HSFM's engine against the plain autograd loop: one table, one process, random features.

    python -m benchmarks.meta [--device cuda] [--threads 1] [--shapes waterbirds celeba]

Per shape: seconds of a full training by the loop and, per trial, by the engine (the better of two), with their ratio;
what trained (NUMBA_DISABLE_JIT=1 leaves it to torch); the highest memory of the process so far; and what share of the
engine's time two floors are, measured in the same process: the multiplications at the rate of a large matrix product,
and the least reads and writes of support, hard rows and validation, each at the rate at which an array of that size is
read again and again, from whichever cache holds it. What hides behind the other would have to be faster than either.
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
from hsfm.methods.hsfm.meta_gradient import cheaper_form
from hsfm.methods.hsfm.outer_loop import Settings, Trial
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
    """Of the processor where one thread of it does all, which other jobs on the machine do not count in; else wall."""
    if device.type != "cpu":
        torch.cuda.synchronize(device)
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    start = clock()
    call()
    if device.type != "cpu":
        torch.cuda.synchronize(device)
    return clock() - start


def product_rate(device: torch.device) -> float:
    """Multiplications per second of a large float32 matrix product."""
    a = torch.randn(2048, 2048, device=device)
    return 2048**3 / min(seconds(lambda: a @ a, device) for _ in range(5))


def read_rate(size: int, device: torch.device) -> float:
    """Bytes per second at which an array of so many bytes, a MB at least, is read when it was read just before."""
    array = torch.randn(max(size, 2**20) // 4, device=device)
    return array.nbytes / min(seconds(lambda: torch.dot(array, array), device) for _ in range(50))


def work(shape: Shape, n: int, m: int) -> tuple[float, dict[int, float]]:
    """Multiplications of one epoch of two classes, and by size in bytes of what is read how many bytes.

    n support rows, m hard ones. Dual: the support is read for K and Z_0, S'H, H V', and the last product, which is
    written; primal: once for an inner step and once for its reverse. Adam reads support, gradient and moments, and
    writes all but the gradient; the head's steps read the support once each, its score validation.
    """
    d, settings = shape.d, shape.settings
    steps, rounds = settings.inner_steps, settings.support_steps
    dual = cheaper_form(n, d, 2, steps) == "dual"
    products = n * n * d * 3 / 2 + 3 * n * d + 2 * steps * n * n if dual else 6 * steps * n * d
    passes = 5 if dual else 2 * steps + 1
    multiplications = rounds * (products + 2 * m * d) + 2 * steps * n * d + 2 * shape.n_val * d
    support, hard, val = 4 * n * d, 4 * m * d, 4 * shape.n_val * d
    reads = {support: support * (rounds * (passes + 7) + steps)}
    for size, of_size in ((hard, rounds * hard), (val, val)):
        reads[size] = reads.get(size, 0) + of_size
    return multiplications, reads


def measure(name: str, device: torch.device, product: float) -> list[str]:
    shape, d = SHAPES[name], SHAPES[name].d
    train, val = random_split(shape.n_train, d, 0, device), random_split(shape.n_val, d, 1, device)
    weight = torch.zeros(2, d, device=device)
    weight[1, :2] = torch.tensor([0.2, 1.0])
    head = Head(weight, torch.zeros(2, device=device))

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
        multiplications, reads = work(shape, n, m)
        products = shape.settings.epochs * multiplications / product
        moves = shape.settings.epochs * sum(of_size / read_rate(size, device) for size, of_size in reads.items())
        lines.append(
            f"| {name} | {count} | {plain:.2f} | {ours:.3f} | {first.engine} | {plain / ours:.1f} "
            f"| {memory(device):.0f} | {100 * products / ours:.0f} % | {100 * moves / ours:.0f} % |"
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
    product = product_rate(device)
    print(
        f"torch {torch.__version__}, {device}, {arguments.threads} thread(s); {product / 1e9:.0f} G multiplications/s\n"
    )
    columns = ("shape", "trials", "loop, s per trial", "engine, s per trial", "by", "ratio", "memory, MB")
    print("|", " | ".join((*columns, "product floor", "read floor")), "|")
    print("| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for name in arguments.shapes:
        for line in measure(name, device, product):
            print(line, flush=True)


if __name__ == "__main__":
    main()
