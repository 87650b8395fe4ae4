"""Draw the images of a dataset and write its image table."""

from hsfm import job
from hsfm.datasets import minibirds
from hsfm.files import sha256, write_array
from hsfm.images import ImageTable, group_of, write_images


def prepare_images(dataset: str, images: str, pixels: str, settings: dict, workers: int) -> None:
    settings = {key: value for key, value in settings.items() if key != "source"}
    drawn = minibirds.draw(**settings, workers=workers)
    write_array(pixels, drawn.pixels)
    rows = drawn.rows.assign(
        path="pixels.npy",
        group=group_of(drawn.rows["y"], drawn.rows["attribute"], len(minibirds.ATTRIBUTE_NAMES)),
    )
    table = ImageTable(rows, dataset, minibirds.CLASS_NAMES, minibirds.ATTRIBUTE_NAMES, {"pixels.npy": sha256(pixels)})
    write_images(images, table)


# the guard, because drawing starts worker processes that import this file
if __name__ == "__main__":
    job.start(snakemake.log[0])
    prepare_images(
        snakemake.wildcards.dataset,
        snakemake.output.images,
        snakemake.output.pixels,
        snakemake.params.settings,
        snakemake.threads,
    )
