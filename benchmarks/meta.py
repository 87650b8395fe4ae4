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

import torch
from torch import Tensor

from benchmarks import autograd_loop
from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head
from hsfm.methods.hsfm.train import Shared, Trial, train_trials

# name: train rows, val rows, d, inner_lr, shared settings, numbers of trials (docs: the paper's Table 11)
SHAPES = {
    "waterbirds": (4795, 1199, 2048, 5e-5, Shared(16, 15, 15, 64, 40), (1, 32)),
    "celeba": (8192, 19867, 2048, 5e-5, Shared(1024, 10, 5, 256, 20), (1,)),
    "minibirds": (4000, 1000, 128, 5e-4, Shared(64, 10, 10, 128, 40), (1, 32)),
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


def work(shared: Shared, d: int) -> tuple[float, float]:
    """Multiplications and bytes of one meta-gradient of two classes and its Adam step, by the form that is taken.

    Dual: the support is read for K, Z_0, S'H, H V' and the last product; primal: four times an inner step and for the
    last product. Adam reads support, gradient and moments and writes all but the gradient; the gradient is written and
    its norm read. The hard features are read twice.
    """
    n, m, t = 2 * shared.support_per_class, 2 * shared.hard_per_class, shared.inner_steps
    dual, primal = 2 * n * n * d + 3 * n * d + 4 * t * n * n, 6 * t * n * d
    passes = (5 if dual < primal else 4 * t + 1) + 9
    return min(dual, primal) + 2 * m * d, 4 * (passes * n * d + 2 * m * d)


def measure(name: str, device: torch.device, product: float, copy: float) -> list[str]:
    n_train, n_val, d, inner_lr, shared, counts = SHAPES[name]
    train, val = random_split(n_train, d, 0, device), random_split(n_val, d, 1, device)
    weight = torch.zeros(2, d, device=device)
    weight[1, :2] = torch.tensor([0.2, 1.0])
    head = Head(weight, torch.zeros(2, device=device))
    trials = [Trial(seed, inner_lr, 1.0) for seed in range(max(counts))]

    def loop() -> Tensor:
        return autograd_loop.train(train, val, head, trials[0], shared).head.weight

    warm_up = Shared(shared.support_per_class, shared.inner_steps, 1, shared.hard_per_class, 1)
    autograd_loop.train(train, val, head, trials[0], warm_up)
    plain = seconds(loop, device)
    lines = []
    for count in counts:
        train_trials(train, val, head, trials[:count], warm_up)
        ours = (
            min(seconds(lambda c=count: train_trials(train, val, head, trials[:c], shared), device) for _ in range(2))
            / count
        )
        steps = shared.epochs * shared.support_steps
        multiplications, moved = work(shared, d)
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
