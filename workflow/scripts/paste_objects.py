"""Paste objects of one class into scenes of another, out of which their own object is erased."""

from hsfm.core import job
from hsfm.core.shards import Shard, write_rows_in_parts
from hsfm.data.open_images import open_pictures
from hsfm.methods.ddb.cut_paste import CutPasteSettings, Paster
from hsfm.methods.ddb.generated import GENERATED, OBJECTS, as_table, plan, read_table

PART = 64  # images; what a killed job loses at most

job.start(snakemake.log[0])
files, params, threads = snakemake.input, snakemake.params, snakemake.threads
objects, metadata = read_table(files.objects, OBJECTS)
metadata["generator"] = "cut_paste"
pictures = open_pictures(files.images, files.cache)
paste = Paster(objects, pictures, CutPasteSettings(**params.ddb["cut_paste"]))
planning = {name: params.ddb[name] for name in ("images_per_source", "seed")}
n = write_rows_in_parts(
    snakemake.output.generated,
    plan(objects, metadata["classes"], **planning),
    lambda parts, done: (as_table(paste(part, threads=threads, done=done), GENERATED, metadata) for part in parts),
    size=PART,
    what="pasting",
    depends_on=job.depends_on(dict(params.items()), [files.images, files.objects], "cpu"),
    shard=Shard.named(snakemake.wildcards.get("scatteritem")),
)
job.finish("DDB", f"{n:,} images generated or accounted for")
