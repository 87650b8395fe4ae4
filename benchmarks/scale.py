"""Cost of large datasets, stage by stage: bytes, GPU hours, jobs, and which stage runs out of memory first.

    python -m benchmarks.scale

Memory is measured here: each stage that may grow with the number of images runs in a process of its own on two numbers
of rows, and the difference is what an image costs. GPU hours follow from two assumed rates, --forward and --inpainting,
and from how often a stage goes through the network; put your own rates there (`python -m benchmarks.throughput --device
cuda` measures the first).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from tabulate import tabulate

from benchmarks.edits import random_embeddings
from benchmarks.memory import watched
from benchmarks.paper import settings_of
from hsfm.core.progress import quiet
from hsfm.data.table import SPLITS, ImageTable, complete, read_images, write_images
from hsfm.features.embeddings import read_embeddings, write_embeddings
from hsfm.features.splits import read_shards, write_splits
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.methods.hsfm import train as meta

# Network passes of a forward pass's cost. A training step takes a forward pass and a backward pass of twice its cost.
STEP = 3
# Masks against embedding, ResNet-50 at 224: docs/explanation/performance.md, `python -m benchmarks.dac --time`.
MASKS = 7.2
# Image files read per second and core, JPEG of 500 x 375: `python -m benchmarks.throughput`, in the same page.
DECODED = 1200
STORED = 256 * 341 * 3  # bytes of an image of that shape in the cache, for a crop of 224
MASK = 224 * 224 // 8 + 6 * 4
SOURCES, PER_SOURCE, SEEDS = 300, 4, 3  # DDB's, as in config/paper.yaml
RETRAINING = 20 * STEP * 2  # epochs of a step on old and generated images


@dataclass(frozen=True)
class Case:
    name: str
    n: int  # images
    d: int  # features
    classes: int
    epochs: int  # of ERM


CASES = [
    Case("ImageNet-1k", 1_281_167, 2048, 1000, 90),
    Case("100 million images", 100_000_000, 2048, 1000, 10),
]


# Memory ---------------------------------------------------------------------------------------------------------------


def write_rows(folder: Path, n: int, d: int) -> None:
    """An image table of n rows, and embeddings of n training rows in two shards."""
    rows = pd.DataFrame({"image_id": [f"d{i // 5000:05d}/{i:09d}.jpg" for i in range(n)]})
    labels = np.arange(n)
    rows = rows.assign(
        path=rows["image_id"], y=labels % 2, attribute=labels // 2 % 2, split=np.take(SPLITS, labels % 3)
    )
    table = ImageTable(complete(rows, ("a", "b")), "rows", ("x", "y"), ("a", "b"), str(folder))
    write_images(folder / "images.parquet", table)
    for split, count in (("train", n), ("val", 1000), ("test", 1000)):
        for shard in (1, 2):
            part = random_embeddings(split, count // 2, d, shard)
            part = replace(part, image_id=tuple(f"{shard}-{name}" for name in part.image_id))
            write_embeddings(folder / f"{split}-{shard}.parquet", part, whole=False)


def read_table(folder: Path) -> None:
    read_images(folder / "images.parquet")


def gather(folder: Path) -> None:
    outputs = {split: str(folder / f"{split}.parquet") for split in SPLITS}
    files = {split: [folder / f"{split}-{shard}.parquet" for shard in (1, 2)] for split in SPLITS}
    outputs["standardization"] = str(folder / "standardization.safetensors")
    write_splits(outputs, lambda split: read_shards(files[split], split), None)


def fit(folder: Path) -> None:
    train, val = (read_embeddings(folder / f"{split}.parquet", split=split) for split in ("train", "val"))
    d = train.features.shape[1]
    head = Head(torch.zeros(2, d), torch.zeros(2))
    settings, hard_per_class = settings_of("waterbirds")
    once = settings.model_copy(update={"epochs": 1})
    with quiet():
        meta.train(
            train, val, head, once, seeds=[0], hard_per_class=hard_per_class, scorer=Scorer(val, "worst_group")
        )  # fmt: skip


STAGES = {
    "image table, read whole (training, masks, DaC, DDB)": read_table,
    "embeddings, gathered from shards": gather,
    "training features, read whole (HSFM, its edits and studies)": fit,
}


def run_stage(name: str, folder: str) -> None:
    with watched() as peak:
        start = time.perf_counter()
        STAGES[name](Path(folder))
        taken = time.perf_counter() - start
    print(f"{peak[0]} {taken}")


def measure(rows: tuple[int, int], d: int) -> dict[str, tuple[float, float]]:
    """Bytes of memory and seconds per image of each stage, between two numbers of rows."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in STAGES}
    for n in rows:
        with tempfile.TemporaryDirectory() as folder:
            make = f"from benchmarks.scale import *; write_rows(Path({folder!r}), {n}, {d})"
            subprocess.run([sys.executable, "-c", make], check=True)
            for name in STAGES:
                environment = {**os.environ, "ARROW_DEFAULT_MEMORY_POOL": "system"}  # as the workflow sets it
                command = [sys.executable, "-m", "benchmarks.scale", "--stage", name, folder]
                out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
                found[name].append(tuple(map(float, out.split())))
    step = rows[1] - rows[0]
    return {name: tuple((b - a) / step for a, b in zip(*pair, strict=True)) for name, pair in found.items()}


# Projection -----------------------------------------------------------------------------------------------------------


def stages(case: Case, forward: float, inpainting: float, hours: float) -> list[list[str]]:
    """Rows of the table: stage, bytes on disk, GPU hours, shards of at most `hours`."""
    one_pass = case.n / forward / 3600
    generated = case.classes * SOURCES * PER_SOURCE
    gpu = {
        "decode_images": (case.n * STORED, 0.0),
        "train_erm": (0, case.epochs * STEP * one_pass),
        "extract_embeddings": (case.n * 4 * case.d, one_pass),
        "make_masks": (case.n * MASK, MASKS * one_pass),
        "inpaint_objects": (generated * 400_000, generated * inpainting / 3600),
        "fit_ddb, one seed": (0, RETRAINING * one_pass),
    }
    shared = ("extract_embeddings", "make_masks", "inpaint_objects")
    rows = []
    for name, (size, time_on_gpu) in gpu.items():
        jobs = str(max(1, -(-int(time_on_gpu * 60) // int(hours * 60)))) if name in shared else "not cut"
        rows.append([name, f"{size / 1e9:,.1f} GB" if size else "", f"{time_on_gpu:,.1f}" if time_on_gpu else "", jobs])
    rows[0][2] = f"({case.n / DECODED / 3600:,.1f} core hours)"
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=2, default=[50_000, 150_000], help="to measure memory with")
    parser.add_argument("--features", type=int, default=2048, help="d of those rows")
    parser.add_argument("--forward", type=float, default=2500, help="images per second and GPU, forward (assumed)")
    parser.add_argument("--inpainting", type=float, default=2, help="seconds per inpainted image and GPU (assumed)")
    parser.add_argument("--hours", type=float, default=4, help="that a shard is to take at most")
    parser.add_argument("--memory", type=float, nargs="+", default=[128, 512], help="of a machine, GB")
    parser.add_argument("--stage", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stage:
        run_stage(*arguments.stage)
        return
    rows = []
    for name, (size, seconds) in measure(tuple(arguments.rows), arguments.features).items():
        fits = [f"{gb * 1e9 / size / 1e6:,.0f} million" if size > 50 else "any number" for gb in arguments.memory]
        rows.append([name, f"{max(size, 0):,.0f}", f"{max(seconds, 0) * 1e6:,.1f}", *fits])
    fit_in = [f"images in {gb:g} GB" for gb in arguments.memory]
    show(rows, ["what grows with the images", "bytes per image", "seconds per million", *fit_in])
    for case in CASES:
        print(f"\n{case.name}: {case.n:,} images, d = {case.d}, {case.classes} classes, ERM for {case.epochs} epochs\n")
        header = ["stage, of one run", "bytes", "GPU hours", f"shards of {arguments.hours:g} hours at most"]
        show(stages(case, arguments.forward, arguments.inpainting, arguments.hours), header)


def show(rows: list[list[str]], header: list[str]) -> None:
    align = ["left", *["right"] * (len(header) - 1)]
    print(tabulate(rows, header, tablefmt="github", colalign=align, disable_numparse=True), flush=True)


if __name__ == "__main__":
    main()
