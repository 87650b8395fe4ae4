"""Read the labels of a dataset whose images are files; no image is opened."""

from importlib import import_module

from hsfm.core import job
from hsfm.core.text import by_split
from hsfm.data import counts
from hsfm.data.table import ImageTable, Listing, complete, write_images


def list_images(settings: dict) -> Listing:
    settings = dict(settings)
    source, unchecked = settings.pop("source"), settings.pop("allow_other_counts", True)
    listing = import_module(f"hsfm.data.sources.{source}").read(**settings)
    if not unchecked:
        counts.check_counts(source, listing.rows, listing.class_names, listing.attribute_names)
    return listing


job.start(snakemake.log[0])
listing = list_images(snakemake.params.settings)
table = ImageTable(
    rows=complete(listing.rows, listing.attribute_names),
    dataset=snakemake.wildcards.dataset,
    class_names=listing.class_names,
    attribute_names=listing.attribute_names,
    folder=snakemake.params.settings["folder"],
    pixels_sha256={},
)
write_images(snakemake.output[0], table)
job.finish("Image table", by_split(listing.rows["split"].value_counts(sort=False).to_dict()))
