"""Write a dataset's images as one array, and its image table."""

from importlib import import_module

from hsfm.core import job
from hsfm.core.files import write_array
from hsfm.core.text import by_split
from hsfm.data import counts
from hsfm.data.table import ImageTable, complete, write_images


def pack_images(dataset: str, images: str, pixels: str, given: dict, workers: int) -> str:
    source = import_module(f"hsfm.data.sources.{given['source']}")
    settings = source.Settings(**given)
    packed = source.pack(settings, workers)
    if not getattr(settings, "allow_other_counts", True):
        counts.check_counts(settings.source, packed)
    write_array(pixels, packed.pixels)
    height, width = packed.pixels.shape[1:3]
    rows = complete(packed.rows.assign(path="pixels.npy", height=height, width=width), packed.attribute_names)
    write_images(images, ImageTable(rows, dataset, packed.class_names, packed.attribute_names))
    return f"{by_split(rows['split'].value_counts(sort=False).to_dict())}, {height} x {width} pixels"


# the guard, because drawing starts worker processes that import this file
if __name__ == "__main__":
    job.start(snakemake.log[0])
    outputs = snakemake.output
    packed = pack_images(
        snakemake.wildcards.dataset, outputs.images, outputs.pixels, snakemake.params.settings, snakemake.threads
    )
    job.finish("Images", packed)
