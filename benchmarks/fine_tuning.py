"""Cost of fine-tuning by backbone: operations and processor time of a training image.

    python -m benchmarks.fine_tuning
    python -m benchmarks.fine_tuning --only resnet50 --device cuda

One step is the forward and backward pass and the optimizer's step of a batch, in the workflow's own order of memory.
Operations are three times those of a forward pass, a multiplication and its addition as two. On the CPU the time is
that of the processor, all threads together, which other programs on the machine stretch less than the clock; on CUDA it
is by the clock.
"""

import argparse
import time

import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from hsfm.core.device import Compute
from hsfm.models.backbone import build_network
from hsfm.models.fine_tuning import family

CASES = (
    *(("timm:tf_efficientnet_lite0", 96), ("timm:tf_efficientnet_lite0", 224)),
    *(("resnet18", 224), ("resnet50", 224), ("convnext_tiny", 224), ("vit_b_16", 224)),
)


def measure(name: str, side: int, batch: int, rounds: int, compute: Compute) -> tuple[float, float]:
    """Operations and seconds of one training image."""
    network = compute.prepare(build_network(name, 2)).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)
    images = torch.randn(batch, 3, side, side, device=compute.device).to(memory_format=torch.channels_last)
    labels = torch.arange(batch, device=compute.device) % 2
    clock = time.process_time if compute.on_cpu else time.perf_counter

    def step() -> None:
        with compute.autocast():
            loss = cross_entropy(network(images), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    step()
    seconds = []
    for _ in range(rounds):
        start = clock()
        step()
        if not compute.on_cpu:
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return operations(network, images) / batch, min(seconds) / batch


@torch.no_grad()
def operations(network: torch.nn.Module, images: torch.Tensor) -> float:
    """Of a training step: those of a forward pass as torch counts them, and twice as many backward.

    Torch counts too many of the backward pass of grouped convolutions.
    """
    with FlopCounterMode(display=False) as counter:
        network(images)
    return 3 * counter.get_total_flops()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images of a step (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="steps, of which the fastest counts (%(default)s)")
    parser.add_argument("--only", default="", help="backbones whose name holds this text")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    compute = Compute.on(args.device)
    print("| backbone | family | side | GFLOP per training image | seconds per 1,000 training images | GFLOP/s |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for name, side in CASES:
        if args.only in name:
            flops, seconds = measure(name, side, args.batch, args.rounds, compute)
            cells = f"{flops / 1e9:.1f} | {1000 * seconds:.0f} | {flops / seconds / 1e9:.0f}"
            print(f"| {name} | {family(name)} | {side} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
