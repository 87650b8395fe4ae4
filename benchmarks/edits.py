"""Cost of measuring HSFM's edits: the stage on embeddings of CelebA's shape, from files to file.

    python -m benchmarks.edits

Writes random embeddings and a support (--rows, --val, --features, --support, --seeds), then runs the stage's work in a
process of its own and prints its seconds and the highest resident set.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from hsfm.analysis.edits import EditSettings, measure, write_edits
from hsfm.core.files import write_parquet
from hsfm.features.embeddings import Embeddings, read_embeddings, write_embeddings
from hsfm.methods.hsfm.support import Support, read_support, support_table

SHA = "0" * 64


def random_embeddings(split: str, n: int, d: int, seed: int) -> Embeddings:
    """Like pooled features behind a ReLU: what class and attribute add is small beside how images differ."""
    generator = torch.Generator().manual_seed(seed)
    y, attribute = (torch.randint(0, 2, (n,), generator=generator) for _ in range(2))
    features = torch.randn(n, d, generator=generator)
    features[:, 0] += 3 * attribute
    features[:, 1] += 3 * y
    return Embeddings(features.relu_(), y, attribute, tuple(f"{split}-{i}" for i in range(n)), ("a", "b"), ("x", "y"),
                      "random", split, SHA, {"backbone": "none", "transform": {}, "precision": "float32"})  # fmt: skip


def write(folder: Path, arguments: argparse.Namespace) -> None:
    train = random_embeddings("train", arguments.rows, arguments.features, 0)
    val = random_embeddings("val", arguments.val, arguments.features, 1)
    for part in (train, val):
        write_embeddings(folder / f"{part.split}.parquet", part)
    generator = torch.Generator().manual_seed(2)
    rows = [torch.randperm(arguments.rows, generator=generator)[: arguments.support] for _ in range(arguments.seeds)]
    every = torch.cat(rows)
    before = train.features[every]
    support = Support(
        seed=tuple(seed for seed in range(arguments.seeds) for _ in range(arguments.support)),
        image_id=tuple(train.image_id[row] for row in every.tolist()),
        y=train.y[every],
        before=before,
        after=before + torch.randn(before.shape, generator=generator),
        checkpoint_sha256=SHA,
    )
    write_parquet(folder / "support.parquet", support_table(support), {})


def run_stage(folder: Path) -> None:
    start = time.perf_counter()
    train, val = (read_embeddings(folder / f"{split}.parquet", split=split) for split in ("train", "val"))
    edits, metadata = measure(read_support(folder / "support.parquet"), train, val, settings=EditSettings())
    write_edits(folder / "edits.parquet", edits.assign(dataset="random", run=0), metadata)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    print(f"{time.perf_counter() - start:.2f} s, {peak:.2f} GB at most")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=162_770, help="training embeddings")
    parser.add_argument("--val", type=int, default=19_867)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--support", type=int, default=2048, help="support rows per seed")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.stage is not None:
        run_stage(Path(arguments.stage))
        return
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), arguments)
        # a process of its own, whose memory is the stage's alone, with the allocator that the workflow sets
        command = [sys.executable, "-m", "benchmarks.edits", "--threads", str(arguments.threads), "--stage", name]
        subprocess.run(command, check=True, env={**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"})


if __name__ == "__main__":
    main()
