"""Take the object of every source image out of masks that are there."""

from hsfm.core import job
from hsfm.core.files import write_parquet
from hsfm.core.progress import track
from hsfm.data.open_images import open_pictures
from hsfm.data.transforms import TransformSettings
from hsfm.methods.dac.masks import read_masks, unpack
from hsfm.methods.ddb.generated import OBJECTS, SOURCES, as_table, read_table, take_objects

job.start(snakemake.log[0])
files, params = snakemake.input, snakemake.params
sources, metadata = read_table(files.sources, SOURCES)
masks = read_masks(files.masks, split="train")
masks.require(checkpoint_sha256=metadata["checkpoint_sha256"], transform=params.transform)
masks = masks.of(sources["image_id"])
pictures = open_pictures(files.images, files.cache)
objects = take_objects(sources, unpack(masks.packed, masks.size), pictures, TransformSettings(**params.transform))
rows = list(track(objects, "taking objects", "image", len(sources)))
metadata |= {"source": masks.metadata["source"], "models": {}}
write_parquet(snakemake.output.objects, as_table(rows, OBJECTS, metadata), {})
found = sum(row["mask"] is not None for row in rows)
job.finish("DDB", f"objects taken from {found:,} of {len(rows):,} source images")
