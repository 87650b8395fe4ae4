"""Download and unpack what a dataset is made of, unless it is there."""

from hsfm.core import job
from hsfm.data.download import get_dominoes, get_waterbirds


def download_data(source: str, folder: str) -> None:
    {"waterbirds": get_waterbirds, "dominoes": get_dominoes}[source](folder)


job.start(snakemake.log[0])
download_data(snakemake.params.source, snakemake.params.folder)
job.finish("Download", f"{snakemake.params.folder} is complete")
