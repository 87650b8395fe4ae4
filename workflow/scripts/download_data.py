"""Download and unpack what a dataset is made of, unless it is there."""

from hsfm.core import job
from hsfm.data.download import download

job.start(snakemake.log[0])
download(snakemake.params.source, snakemake.params.folder)
job.finish("Download", f"{snakemake.params.folder} is complete")
