"""DDB: what its inpainting stage costs beside the pipeline alone, and what its pruning keeps on minibirds.

    python -m benchmarks.ddb
    python -m benchmarks.ddb --model FOLDER --device cuda --size 512 --steps 50 --batch-size 8
    snakemake --cores 2 --configfile config/ddb.yaml --config 'runs=[0, 1, 2]' && python -m benchmarks.ddb --pruned

The first two time, in turn in one process, the stage (image files to PNG in Parquet) and the pipeline called on batches
that are ready; without a model on one of random weights. The last prints how many generated images each rule keeps.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from benchmarks import random_models
from hsfm.core.device import Compute, choose_device
from hsfm.core.shards import write_rows_in_parts
from hsfm.data.pixels import ImageFiles
from hsfm.methods.ddb.diffusion_models import LoadingSettings, find_model, load_pipeline, to_device
from hsfm.methods.ddb.generated import GENERATED, PRUNED, as_table, plan, read_table
from hsfm.methods.ddb.inpaint import InpaintSettings, inpaint_parts, pipeline_input

FOLDER = Path("results/minibirds")
PROMPT = "a photo of a {token} bird"
PART = 8  # batches


def write_images(folder: Path, n: int, side: int) -> pd.DataFrame:
    """Photographs' size of file and of picture: smooth noise as JPEG."""
    generator = np.random.default_rng(0)
    names = [f"{number:03d}.jpg" for number in range(n)]
    for name in names:
        small = Image.fromarray(generator.integers(0, 256, (side // 8, side // 6, 3), dtype=np.uint8))
        small.resize((side * 4 // 3, side)).save(folder / name, quality=90)
    return pd.DataFrame({"image_id": names, "path": names, "y": np.arange(n) % 2})


def time_stage(arguments: argparse.Namespace) -> None:
    compute = Compute(choose_device(arguments.device))
    size = (arguments.size, arguments.size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.model is None:
            random_models.write_diffusion(folder / "models", channels=arguments.channels)
        model = find_model(arguments.model or str(folder / "models/inpainting"), pipeline=True)
        pipeline = load_pipeline(StableDiffusionInpaintPipeline, model, compute.dtype)
        to_device(pipeline, compute, LoadingSettings())
        sources = write_images(folder, arguments.images, arguments.size)
        files = ImageFiles(sources, folder)
        rows = plan(sources, ["x", "y"], images_per_source=1, seed=0, tokens=["bird", "bird"])
        mask = np.zeros((arguments.size, arguments.size * 4 // 3), bool)
        mask[arguments.size // 4 : arguments.size // 2, arguments.size // 4 : arguments.size // 2] = True
        place = {image_id: number for number, image_id in enumerate(sources["image_id"])}

        def pictures(image_id: list[str]) -> list[np.ndarray]:
            read = files.read(torch.tensor([place[one] for one in image_id]))
            return [image.permute(1, 2, 0).numpy().copy() for image in read.each()]

        settings = InpaintSettings(prompt=PROMPT, size=size, steps=arguments.steps, batch_size=arguments.batch_size)

        def stage(number: int) -> None:
            metadata = {"dataset": "none", "run": 0, "classes": ["x", "y"]}

            def tables(parts: list[pd.DataFrame], done: object) -> object:
                masks = dict.fromkeys(sources["image_id"], mask)
                made = inpaint_parts(pipeline, parts, pictures, masks, settings=settings, compute=compute)
                return (as_table(part, GENERATED, metadata) for part in made)

            out = folder / f"{number}.parquet"
            write_rows_in_parts(out, rows, tables, size=PART * arguments.batch_size, what="stage", depends_on=number)

        ready = []
        for first in range(0, len(rows), arguments.batch_size):
            part = rows.iloc[first : first + arguments.batch_size]
            masks, prompts = [mask] * len(part), ["a photo of a bird"] * len(part)
            ready.append(pipeline_input(pictures(list(part["source_id"])), masks, prompts, list(part["seed"]), size))

        def alone() -> None:
            for batch in ready:
                how = {"height": size[0], "width": size[1], "num_inference_steps": arguments.steps}
                pipeline(**batch, **how, output_type="pt")
            if not compute.on_cpu:
                torch.cuda.synchronize()

        alone()  # warm
        times = {"pipeline": [], "stage": []}
        for number in range(arguments.rounds):
            for what, function in (("pipeline", alone), ("stage", lambda number=number: stage(number))):
                start = time.perf_counter()
                function()
                times[what].append(time.perf_counter() - start)
        ratio = statistics.median(s / p for s, p in zip(times["stage"], times["pipeline"], strict=True))
        middle = {what: statistics.median(values) for what, values in times.items()}
        shape = (
            f"{len(rows)} images of {size[0]} x {size[1]} in batches of {arguments.batch_size}, {arguments.steps} steps"
        )
        print(f"{shape}: pipeline {middle['pipeline']:.2f} s, stage {middle['stage']:.2f} s, ratio {ratio:.3f}")


def print_pruned() -> None:
    print("| run | class | generated | not on the object | not hard for ERM | both | kept |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for path in sorted(FOLDER.glob("run*/ddb/pruned.parquet")):
        rows, metadata = read_table(path, PRUNED)
        for y, part in rows.dropna(subset="attribution").groupby("y"):  # without those that could not be generated
            minimum = metadata["rules"]["attribution"]
            off, easy = part["attribution"] <= minimum, part["probability"] >= part["limit"]
            counts = [len(part), (off & ~easy).sum(), (easy & ~off).sum(), (off & easy).sum(), part["kept"].sum()]
            name = path.parts[-3].removeprefix("run")
            print(f"| {name} | {metadata['classes'][y]} | {' | '.join(str(int(count)) for count in counts)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pruned", action="store_true", help="print what was kept in results/minibirds")
    parser.add_argument("--model", help="an inpainting model, by name or folder; by default one of random weights")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--channels", type=int, default=32, help="of the random model's first block")
    parser.add_argument("--size", type=int, default=64, help="of the pictures, in pixels")
    parser.add_argument("--steps", type=int, default=10, help="of denoising")
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    print_pruned() if arguments.pruned else time_stage(arguments)


if __name__ == "__main__":
    main()
