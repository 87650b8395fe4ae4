"""DaC on minibirds: what its masks hold, what comes of them under other settings, and what the masks cost.

    snakemake --cores 2 --config 'runs=[0, 1, 2]' && python -m benchmarks.dac
    python -m benchmarks.dac --time

The first takes the networks of `results/minibirds` and prints, by group, how much of the masks is bird and how much of
the birds they keep; then the test worst group under each setting, with masks cut out of heat maps and with those that
the dataset knows. The second times masks against embedding the same images, in turn, in one process.
"""

import argparse
import itertools
import statistics
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import yaml

from hsfm.core.device import Compute, choose_device
from hsfm.core.metrics import accuracy_by, worst
from hsfm.data.open_images import open_source
from hsfm.data.pixels import Images, image_batches
from hsfm.data.pixels import pack as pack_pixels
from hsfm.data.sources import minibirds
from hsfm.data.table import read_images
from hsfm.data.transforms import TransformSettings
from hsfm.features.embeddings import read_embeddings
from hsfm.features.extract import feature_function, stream
from hsfm.heads.head import read_heads
from hsfm.heads.scorer import Scorer
from hsfm.methods.dac.find_masks import mask_images
from hsfm.methods.dac.fit import DaCInputs, Settings, fit
from hsfm.methods.dac.masks import Masks, MaskSettings, pack, read_masks, unpack
from hsfm.models.backbone import Network, build_network, read_checkpoint

CONFIG = yaml.safe_load(Path(__file__).parent.with_name("config").joinpath("config.yaml").read_text())
SETTINGS = CONFIG["settings"]["minibirds"]
TRANSFORM = TransformSettings(**SETTINGS["transform"])
FOLDER = Path("results/minibirds")
PUBLISHED = [(10, 0.6), (10, 0.8), (6, 0.8), (2, 0.8)]  # alpha and q of Waterbirds (paper, code), MetaShift, CelebA
SIZES = {"small_resnet": ("minibirds", 2000), "resnet50": ("224 x 224", 64)}  # images to time, by backbone
GROUPS = ["land bird, land", "land bird, water", "water bird, land", "water bird, water"]


# What the masks hold, and what comes of them --------------------------------------------------------------------------


def known_masks() -> Masks:
    image_id, birds = minibirds.draw_masks("train", minibirds.Settings(**SETTINGS["images"]))
    packed = pack(torch.from_numpy(birds))
    return Masks(tuple(image_id), packed, birds.shape[1:], cuts=None, metadata={})


def print_contents(runs: list[int], known: Masks) -> None:
    rows = read_images(FOLDER / "images.parquet").split("train")
    group = rows["group"].to_numpy(int)
    bird = unpack(known.of(rows["image_id"]).packed, known.size).numpy()
    print("| masks | share of | " + " | ".join(GROUPS) + " |")
    print("| --- | --- " + "| ---: " * len(GROUPS) + "|")
    area = [f"{100 * bird[group == g].mean():.0f} %" for g in range(4)]
    print(f"| | the image that is bird | {' | '.join(area)} |")
    for run in runs:
        masks = masks_of(run).of(rows["image_id"])
        kept = unpack(masks.packed, masks.size).numpy()
        for share, whole in (("the mask that is bird", kept), ("the bird that is kept", bird)):
            values = [100 * (kept & bird)[group == g].sum() / whole[group == g].sum() for g in range(4)]
            print(f"| run {run} | {share} | {' | '.join(f'{value:.0f} %' for value in values)} |")


def print_settings(runs: list[int], known: Masks, compute: Compute) -> None:
    print(f"\n| masks | BatchNorm | alpha | q | {' | '.join(f'run {run}' for run in runs)} |")
    print("| --- | --- | ---: | ---: " + "| ---: " * len(runs) + "|")
    print(f"| ERM | | | | {' | '.join(f'{erm(run):.1f}' for run in runs)} |", flush=True)
    kinds = [("heat maps", None, False), ("heat maps, inverted", None, True), ("known", known, False)]
    for (name, masks, invert), batchnorm in itertools.product(kinds, ("frozen", "drift")):
        for alpha, quantile in PUBLISHED:
            changed = {"alpha": alpha, "quantile": quantile, "invert": invert, "batchnorm": batchnorm}
            found = [f"{worst_group(run, masks, Settings(**changed), compute):.1f}" for run in runs]
            print(f"| {name} | {batchnorm} | {alpha} | {quantile} | {' | '.join(found)} |", flush=True)


def masks_of(run: int) -> Masks:
    masks = read_masks(FOLDER / f"run{run}/erm/masks/heat_map/train.parquet")
    if masks.metadata["source"] != "heat_map":
        raise SystemExit(
            f"{masks.path}: masks are not cut out of heat maps; run snakemake with the default settings first"
        )
    return masks


def erm(run: int) -> float:
    test = read_embeddings(FOLDER / f"run{run}/erm/embeddings/test.parquet")
    correct = read_heads(FOLDER / f"run{run}/erm/heads.safetensors").head[0].predict(test.features) == test.y
    return 100 * float(worst(accuracy_by(correct, test.group, test.n_groups)))


def worst_group(run: int, masks: Masks | None, settings: Settings, compute: Compute) -> float:
    """On test, of the head of seed 0; masks: None takes those of the run."""
    folder = FOLDER / f"run{run}/erm"
    network = read_checkpoint(folder / "backbone.safetensors").network
    train, val, test = (read_embeddings(folder / f"embeddings/{split}.parquet") for split in ("train", "val", "test"))
    rows, source = read_images(FOLDER / "images.parquet").rows, open_source(FOLDER / "images.parquet")
    masks = masks_of(run) if masks is None else masks
    inputs = DaCInputs(
        network,
        TRANSFORM,
        None,
        compute,
        masks.of(train.image_id),
        lambda split: source(rows[rows["split"] == split]),
    )
    erm, scorer = read_heads(folder / "heads.safetensors").head[0], Scorer(val, "worst_group")
    found = fit(train, val, erm, settings=settings, seeds=(0,), scorer=scorer, inputs=inputs)
    features = test.features
    if found.networks:
        images = source(rows[rows["split"] == "test"])
        batches = image_batches(images, torch.arange(len(images)), 256, compute.device)
        features = torch.cat(list(stream(feature_function(found.networks[0], TRANSFORM, compute), batches, compute)))
    correct = found.head[0].predict(features) == test.y
    return 100 * float(worst(accuracy_by(correct, test.group, test.n_groups)))


# What the masks cost --------------------------------------------------------------------------------------------------


def print_times(compute: Compute, rounds: int) -> None:
    print("| images | embedding | masks | masks / embedding |")
    print("| --- | ---: | ---: | ---: |")
    for backbone, (name, count) in SIZES.items():
        network, images = build_network(backbone, 2), some_images(name, count)
        times = {"embedding": [], "masks": []}
        for number in range(rounds + 1):
            for stage, function in (("embedding", embed), ("masks", mask)):
                start = time.perf_counter()
                function(network, images, compute)
                if number:  # the first round warms up
                    times[stage].append(time.perf_counter() - start)
        rates = {stage: f"{len(images) / statistics.median(values):.0f} / s" for stage, values in times.items()}
        ratio = statistics.median(m / e for m, e in zip(times["masks"], times["embedding"], strict=True))
        print(f"| {len(images)} of {name} | {rates['embedding']} | {rates['masks']} | {ratio:.1f} |", flush=True)


def some_images(name: str, count: int) -> Images:
    if name == "minibirds":
        drawn = minibirds.Settings(**{**SETTINGS["images"], "sizes": {"train": count, "val": 4, "test": 4}})
        return pack_pixels(list(minibirds.pack(drawn).pixels[:count]))
    return pack_pixels(list(np.random.default_rng(0).integers(0, 256, (count, 224, 224, 3), np.uint8)))


def embed(network: Network, images: Images, compute: Compute) -> None:
    batches = image_batches(images, torch.arange(len(images)), 256, compute.device)
    for _ in stream(feature_function(network, TRANSFORM, compute), batches, compute):
        pass


def mask(network: Network, images: Images, compute: Compute) -> None:
    rows = pd.DataFrame({"image_id": [str(number) for number in range(len(images))], "y": 0})
    metadata = {"transform": TRANSFORM.model_dump(mode="json")}
    how = {"settings": MaskSettings(), "compute": compute, "done": lambda n: None}
    mask_images(network, rows, lambda rows: images, metadata, **how)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--time", action="store_true", help="time masks against embedding")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    compute = Compute(choose_device(arguments.device))
    if arguments.time:
        print_times(compute, arguments.rounds)
        return
    runs = sorted(
        int(path.parts[-5].removeprefix("run")) for path in FOLDER.glob("run*/erm/masks/heat_map/train.parquet")
    )
    if not runs:
        parser.error(f"no masks in {FOLDER}; run snakemake first")
    known = known_masks()
    print_contents(runs, known)
    print_settings(runs, known, compute)


if __name__ == "__main__":
    main()
