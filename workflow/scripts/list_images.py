"""Read the labels of a dataset whose images are files; no image is opened."""

from hsfm.core import job
from hsfm.core.text import by_split
from hsfm.data import counts
from hsfm.data.sources import celeba, metadata, metashift, waterbirds
from hsfm.data.table import ImageTable, Listing, complete, write_images


def list_images(settings: dict) -> Listing:
    source, folder = settings["source"], settings["folder"]
    if source == "metadata":
        return metadata.read(folder, metadata=settings["metadata"], columns=settings["columns"])
    listing = {"waterbirds": waterbirds, "celeba": celeba, "metashift": metashift}[source].read(folder)
    if not settings["allow_other_counts"]:
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
