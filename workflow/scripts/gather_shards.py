"""Join the files of shards, a row group at a time."""

from hsfm import job
from hsfm.parts import join

job.start(snakemake.log[0])
join(snakemake.output[0], snakemake.input.shards)
