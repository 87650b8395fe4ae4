"""Images per second from storage through a network, against what the network alone can do and a loop of one's own.

    python -m benchmarks.throughput
    python -m benchmarks.throughput --at-once 5 64

The first prints a table: files decoded alone; the network alone, on a batch that lies on the device; hsfm's stage end
to end; and the loop that one would write with torchvision's transforms and a DataLoader with a worker per core, for the
same network in the same precision. Everything is timed in turn, round after round in one process, and the shares are
medians over the rounds, since machines are shared and noisy. The second prints how many images of 224 x 224 pass
through ResNet-50 in a second, so many at once, in both orders of memory.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from tqdm import tqdm

from hsfm.core.device import Compute
from hsfm.data.decode_size import decode_rule
from hsfm.data.open_images import open_source
from hsfm.data.sources import minibirds
from hsfm.data.store import decode_images, inspect
from hsfm.data.table import ImageTable, complete, read_images, write_images
from hsfm.data.transforms import AugmentationSettings, TransformSettings, prepare
from hsfm.features.embeddings import write_embeddings
from hsfm.features.extract import embed_table, feature_function
from hsfm.models.backbone import Network, build_network
from hsfm.models.erm import LabeledImages, TrainingData, TrainingSettings, train

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
RECIPE = {"lr": 1e-3, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4, "schedule": "constant", "warmup": 0.1,
          "checkpoint": "last"}  # fmt: skip


@dataclass(frozen=True)
class Case:
    backbone: str
    transform: dict
    augmentation: dict
    batch_size: int
    photos: bool  # JPEG files of 500 x 375 pixels as in Waterbirds; else minibirds, which is an array
    trains: bool
    n_train: int
    n_val: int


NO_CROP = {"random_resized_crop": None, "random_crop": None, "flip": True}
CROP = {"random_resized_crop": {"size": [224, 224], "scale": [0.7, 1.0], "ratio": [3 / 4, 4 / 3]}, "random_crop": None,
        "flip": True}  # fmt: skip
AT_224 = {"resize": [256, 256], "crop": [224, 224], **IMAGENET}
AT_64 = {"resize": None, "crop": None, "mean": [0.5] * 3, "std": [0.5] * 3}


def cases(on_cpu: bool) -> dict[str, Case]:
    n = 192 if on_cpu else 8192
    return {
        "embedding, ResNet-50 at 224": Case("resnet50", AT_224, CROP, 64 if on_cpu else 256, True, False, n, n),
        "ERM, minibirds": Case("small_resnet", AT_64, NO_CROP, 64, False, True, 4000, 1000),
        **({} if on_cpu else {"ERM, ResNet-50 at 224": Case("resnet50", AT_224, CROP, 128, True, True, n, 256)}),
    }


# The data -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Data:
    table: Path
    cache: tuple[Path, ...]  # pixels and index of the store; none where images are packed
    rows: pd.DataFrame  # with the files of a loop of one's own
    folder: Path


def make_data(case: Case, folder: Path, cores: int) -> Data:
    """Images in files, as everyone has them, and what hsfm makes of them once."""
    n = case.n_train + case.n_val
    split = np.repeat(["train", "val"], [case.n_train, case.n_val])
    files = [f"{i:06d}.{'jpg' if case.photos else 'png'}" for i in range(n)]
    if case.photos:
        write_photos(folder, files)
        rows = pd.DataFrame({"image_id": files, "path": files, "y": np.arange(n) % 2, "height": 375, "width": 500})
        rows["split"] = split
        table = as_table(rows, str(folder))
        write_images(folder / "images.parquet", table)
        cache = folder / "decoded.npy", folder / "decoded.parquet"
        rule = decode_rule("needed", case.transform, case.augmentation)
        decode_images(table.rows, table.folder, *cache, rule, workers=cores)
        return Data(folder / "images.parquet", cache, rows, folder)
    sizes = {"train": case.n_train, "val": case.n_val, "test": 8}
    agreement = {"train": 0.95, "val": 0.5, "test": 0.5}
    settings = minibirds.Settings(
        source="minibirds", sizes=sizes, agreement=agreement, image_size=64, hardness=0.15, seed=0
    )
    drawn = minibirds.pack(settings)
    np.save(folder / "pixels.npy", drawn.pixels)
    rows = drawn.rows[drawn.rows["split"] != "test"].reset_index(drop=True)
    for file, index in zip(files, rows["index"], strict=True):
        Image.fromarray(drawn.pixels[index]).save(folder / file)
    packed = rows.assign(path="pixels.npy", height=64, width=64)
    write_images(folder / "images.parquet", as_table(packed, ""))
    return Data(folder / "images.parquet", (), rows.assign(path=files), folder)


def as_table(rows: pd.DataFrame, folder: str) -> ImageTable:
    attribute = rows.get("attribute", 0)
    # no stage here looks at test; a table has to have one
    test = rows[rows["split"] == "val"].head(2).assign(split="test", y=[0, 1])
    test["image_id"] = ["test 0", "test 1"]
    rows = pd.concat([rows.assign(attribute=attribute), test.assign(attribute=0)], ignore_index=True)
    return ImageTable(complete(rows, ("a", "b")), "benchmark", ("x", "y"), ("a", "b"), folder)


def write_photos(folder: Path, names: list[str]) -> None:
    """JPEG files of the size and about the bytes of Waterbirds': smooth colors with some noise."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375), Image.BICUBIC)
    base = np.asarray(coarse).astype(np.int16) + rng.integers(-12, 13, (375, 500, 3), dtype=np.int16)
    base = base.clip(0, 255).astype(np.uint8)
    for number, name in enumerate(tqdm(names, "writing photos", unit="image", disable=None, leave=False)):
        Image.fromarray(np.roll(base, 7 * number, axis=1)).save(folder / name, quality=90)


# What is timed --------------------------------------------------------------------------------------------------------


def seconds(device: torch.device, work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter() - start


def network_of(case: Case, compute: Compute) -> Network:
    return compute.prepare(build_network(case.backbone, 2))


def alone(case: Case, data: Data, compute: Compute) -> tuple[Callable[[], None], Callable[[], None]]:
    """A forward pass, and a forward and backward pass, of a batch that lies on the device."""
    network = network_of(case, compute)
    source = open_source(data.table, data.cache)
    rows = read_images(data.table).split("train").head(case.batch_size)
    images = source(rows).pinned().to(compute.device)
    shown = prepare(images, TransformSettings(**case.transform))
    y = (torch.arange(len(rows)) % 2).to(compute.device)

    def forward() -> None:
        network.eval()
        with torch.inference_mode(), compute.autocast():
            for part in compute.parts(*shown.shape[::2], shown.shape[3]):
                network.features(shown[part])

    def both() -> None:
        network.train()
        with compute.autocast():
            loss = cross_entropy(network(shown), y)
        loss.backward()
        network.zero_grad(set_to_none=True)

    return forward, both


def embed_stage(case: Case, data: Data, compute: Compute) -> Callable[[], None]:
    network = network_of(case, compute)
    metadata = {"checkpoint_sha256": "0" * 64, "details": {"backbone": case.backbone}}

    def stage() -> None:
        source = open_source(data.table, data.cache)
        features = feature_function(network, TransformSettings(**case.transform), compute)
        embeddings = embed_table(
            features, read_images(data.table), source, split="train", batch_size=case.batch_size,
            compute=compute, metadata=metadata,
        )  # fmt: skip
        write_embeddings(data.folder / "train.parquet", embeddings)

    return stage


def train_stage(case: Case, data: Data, compute: Compute) -> Callable[[int], None]:
    source = open_source(data.table, data.cache)
    table = read_images(data.table)

    def labeled(split: str) -> LabeledImages:
        rows = table.split(split)
        y = torch.tensor(rows["y"].to_numpy(np.int64))
        return LabeledImages(source(rows), y, y)

    def stage(epochs: int) -> None:
        transform, augmentation = TransformSettings(**case.transform), AugmentationSettings(**case.augmentation)
        images = TrainingData(labeled("train"), labeled("val"), transform, augmentation)
        settings = TrainingSettings(**RECIPE, epochs=epochs, batch_size=case.batch_size)
        train(build_network(case.backbone, 2), images, settings, seed=0, compute=compute)

    return stage


# A loop of one's own --------------------------------------------------------------------------------------------------


class Files(Dataset):
    def __init__(self, rows: pd.DataFrame, folder: Path, transform: Callable):
        self.paths, self.y = [folder / path for path in rows["path"]], rows["y"].tolist()
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.open(self.paths[i]).convert("RGB")), self.y[i]


def torchvision_transform(case: Case, training: bool) -> v2.Compose:
    steps = []
    crop = case.augmentation["random_resized_crop"]
    if training and crop:
        steps.append(v2.RandomResizedCrop(crop["size"], crop["scale"], crop["ratio"]))
    elif case.transform["resize"]:
        steps += [v2.Resize(case.transform["resize"]), v2.CenterCrop(case.transform["crop"])]
    if training and case.augmentation["flip"]:
        steps.append(v2.RandomHorizontalFlip())
    steps += [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose([*steps, v2.Normalize(case.transform["mean"], case.transform["std"])])


def own_loader(case: Case, data: Data, split: str, training: bool, cores: int, pin: bool) -> DataLoader:
    rows = data.rows[data.rows["split"] == split]
    files = Files(rows, data.folder, torchvision_transform(case, training))
    return DataLoader(files, case.batch_size, shuffle=training, num_workers=cores, pin_memory=pin,
                      persistent_workers=True)  # fmt: skip


def own_embedding(case: Case, data: Data, compute: Compute, cores: int) -> Callable[[], None]:
    network = build_network(case.backbone, 2).to(compute.device).eval()
    loader = own_loader(case, data, "train", False, cores, not compute.on_cpu)

    @torch.inference_mode()
    def loop() -> None:
        features = []
        for images, _ in loader:
            with compute.autocast():
                features.append(network.features(images.to(compute.device, non_blocking=True)).float().cpu())
        np.save(data.folder / "own.npy", torch.cat(features).numpy())

    return loop


def own_training(case: Case, data: Data, compute: Compute, cores: int) -> Callable[[], None]:
    device = compute.device
    network = build_network(case.backbone, 2).to(device)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    training, validation = (own_loader(case, data, split, split == "train", cores, not compute.on_cpu)
                            for split in ("train", "val"))  # fmt: skip

    def epoch() -> None:
        network.train()
        for images, y in training:
            with compute.autocast():
                loss = cross_entropy(network(images.to(device, non_blocking=True)), y.to(device, non_blocking=True))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        network.eval()
        correct = 0
        with torch.inference_mode():
            for images, y in validation:
                with compute.autocast():
                    correct += (network(images.to(device)).argmax(1).cpu() == y).sum().item()

    return epoch


# The table ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Round:
    """Images per second. Those of training cover an epoch with its validation; `alone` is the same work alone."""

    decode: float
    forward: float
    both: float | None
    alone: float
    stage: float
    own: float


def rounds(case: Case, folder: Path, compute: Compute, cores: int, n: int) -> Iterator[Round]:
    data = make_data(case, folder, cores)
    forward, both = alone(case, data, compute)
    repeat = 2 if compute.on_cpu and case.photos else 20
    if case.trains:
        stage, own = train_stage(case, data, compute), own_training(case, data, compute, cores)
    else:
        stage, own = embed_stage(case, data, compute), own_embedding(case, data, compute, cores)
    sample = data.rows.head(2000)
    device = compute.device
    with compute.repeatable():
        for warm in range(n + 1):  # the first starts workers, allocates memory, and does not count
            decode = len(sample) / seconds(device, lambda: inspect(sample, data.folder, workers=cores))
            before = speed(device, forward, both, case, repeat)
            if case.trains:
                # from the second epoch on, which is how nearly all of a training goes
                one = seconds(device, lambda: stage(1))
                staged = case.n_train * 2 / max(seconds(device, lambda: stage(3)) - one, 1e-9)
            else:
                staged = case.n_train / seconds(device, stage)
            middle = speed(device, forward, both, case, repeat)
            owned = case.n_train / seconds(device, own)
            if warm:
                f, b = ((x + y) / 2 if x else None for x, y in zip(before, middle, strict=True))
                work = case.n_train / (case.n_train / b + case.n_val / f) if case.trains else f
                yield Round(decode, f, b, work, staged, owned)


def speed(
    device: torch.device, forward: Callable, both: Callable, case: Case, repeat: int
) -> tuple[float, float | None]:
    """Images per second of forward passes, and of forward and backward passes where the stage trains."""

    def several(work: Callable) -> float:
        return case.batch_size * repeat / seconds(device, lambda: [work() for _ in range(repeat)])

    return several(forward), several(both) if case.trains else None


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.throughput", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="auto", help="cpu, cuda, or auto (%(default)s)")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)), help="threads and workers (all)")
    parser.add_argument("--rounds", type=int, default=5, help="that count (%(default)s)")
    parser.add_argument("--precision", default="auto", help="auto, float32, bfloat16 (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="hsfm's networks through torch.compile")
    parser.add_argument("--fast", action="store_true", help="on CUDA: kernels that do not repeat bit for bit")
    parser.add_argument("--images", type=int, help="for training or embedding; fewer than by default to try it out")
    parser.add_argument(
        "--at-once", type=int, nargs="+", metavar="N", help="time ResNet-50 on N images at once instead"
    )
    parser.add_argument("--only", help="cases whose name holds this text")
    options = parser.parse_args()
    torch.set_num_threads(options.cores)
    compute = Compute.on(
        options.device, precision=options.precision, deterministic=not options.fast, compile=options.compile
    )
    if options.at_once:
        time_at_once(options.at_once, options.rounds, compute)
        return
    where = torch.cuda.get_device_name() if not compute.on_cpu else "cpu"
    print(f"torch {torch.__version__}, {where}, {str(compute.dtype).removeprefix('torch.')}, {options.cores} cores\n")
    print(
        "| stage | decode | forward | forward + backward | alone | end to end | share | own loop | ratio |", flush=True
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for name, case in cases(compute.on_cpu).items():
        if options.only and options.only not in name:
            continue
        if options.images:
            case = replace(case, n_train=options.images, n_val=max(options.images // 4, 8))
        with tempfile.TemporaryDirectory() as folder:
            found = list(rounds(case, Path(folder), compute, options.cores, options.rounds))
        middle = {
            key: statistics.median(getattr(r, key) for r in found)
            for key in ("decode", "forward", "alone", "stage", "own")
        }
        both = f"{statistics.median(r.both for r in found):,.0f}" if case.trains else ""
        share = statistics.median(r.stage / r.alone for r in found)
        ratio = statistics.median(r.stage / r.own for r in found)
        print(
            f"| {name} | {middle['decode']:,.0f} | {middle['forward']:,.0f} | {both} | {middle['alone']:,.0f} | "
            f"{middle['stage']:,.0f} | {100 * share:.0f} % | {middle['own']:,.0f} | {ratio:.2f} |",
            flush=True,
        )


def time_at_once(sizes: list[int], n_rounds: int, compute: Compute) -> None:
    """Print images per second of ResNet-50's features, medians of rounds in which all are timed in turn."""
    orders = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
    networks = {name: build_network("resnet50", 2).eval().to(compute.device, memory_format=order)
                for name, order in orders.items()}  # fmt: skip
    found: dict[tuple[int, str], list[float]] = {(n, name): [] for n in sizes for name in orders}
    for warm in range(n_rounds + 1):
        for (n, name), speeds in found.items():
            images = torch.randn(n, 3, 224, 224).to(compute.device, memory_format=orders[name])
            repeat = max(64 // n, 1)

            def several(network: Network, images: torch.Tensor, repeat: int) -> None:
                for _ in range(repeat):
                    network.features(images)

            with torch.inference_mode(), compute.autocast():
                taken = seconds(compute.device, partial(several, networks[name], images, repeat))
            if warm:
                speeds.append(n * repeat / taken)
    print("| images at once | channels first | channels last |\n| ---: | ---: | ---: |")
    for n in sizes:
        print(f"| {n} | {' | '.join(f'{statistics.median(found[n, name]):.1f}' for name in orders)} |", flush=True)


if __name__ == "__main__":
    main()
