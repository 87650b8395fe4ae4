"""Find the object of every source image by GroundingDINO and SAM."""

from hsfm.core import job

# before all else: diffusers asks CUDA for its devices when it is imported
job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)

from functools import partial

from hsfm.core.device import Compute
from hsfm.core.shards import write_rows_in_parts
from hsfm.data.open_images import open_pictures
from hsfm.methods.ddb.diffusion_models import find_model, library_versions
from hsfm.methods.ddb.generated import OBJECTS, SOURCES, as_table, read_table
from hsfm.methods.ddb.segment import Segmenter, SegmentSettings, find_objects

PART = 64  # images; what a killed job loses at most

files, outputs, params = snakemake.input, snakemake.output, snakemake.params
sources, metadata = read_table(files.sources, SOURCES)
compute = Compute.on(params.device, **params.compute)
local = params.models["local_files_only"]
models = {
    name: find_model(**params.models[name], local_files_only=local, pipeline=False)
    for name in ("detector", "segmenter")
}
origins = {name: model.origin for name, model in models.items()}
metadata |= {"source": "GroundingDINO and SAM", "models": origins}
settings = SegmentSettings(**params.segment)
segment = partial(Segmenter(models["detector"], models["segmenter"], compute), settings=settings)
pictures = open_pictures(files.images, files.cache)
depends_on = {**dict(params.items()), "origins": origins, "libraries": library_versions()}
n = write_rows_in_parts(
    outputs.objects,
    sources,
    lambda parts, done: (
        as_table(find_objects(part, pictures, segment, settings.batch_size, done), OBJECTS, metadata) for part in parts
    ),
    size=PART,
    what="segmenting",
    depends_on=job.depends_on(depends_on, [files.images, files.sources], str(compute.device)),
)
found = int(read_table(outputs.objects, OBJECTS)[0]["mask"].notna().sum())
job.finish("DDB", f"objects found in {found:,} of {n:,} source images")
