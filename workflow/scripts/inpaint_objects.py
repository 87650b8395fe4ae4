"""Inpaint the object of every source image as another class, by a diffusion model."""

from hsfm.core import job

# before all else: diffusers asks CUDA for its devices when it is imported
job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)

from collections.abc import Callable, Iterator

import pandas as pd
import pyarrow as pa
from diffusers import StableDiffusionInpaintPipeline

from hsfm.core.device import Compute
from hsfm.core.shards import Shard, write_rows_in_parts
from hsfm.data.open_images import open_pictures
from hsfm.methods.ddb.diffusion_models import LoadingSettings, ModelSettings, library_versions, read_pipeline, to_device
from hsfm.methods.ddb.generated import GENERATED, OBJECTS, as_table, masks_of, plan, read_table
from hsfm.methods.ddb.inpaint import InpaintSettings, inpaint_parts
from hsfm.methods.ddb.textual_inversion import add_tokens

BATCHES = 8  # of a part; what a killed job loses at most

files, params = snakemake.input, snakemake.params
objects, metadata = read_table(files.objects, OBJECTS)
compute = Compute.on(params.device, **params.compute)
loading, model = LoadingSettings.among(params.models), ModelSettings(**params.models["inpainting"])
pipeline, origin = read_pipeline(StableDiffusionInpaintPipeline, model, loading, compute)
tokens, learned_on = add_tokens(pipeline, files.tokens)
to_device(pipeline, compute, loading)
settings = InpaintSettings(**params.ddb["inpaint"])
planning = {name: params.ddb[name] for name in ("images_per_source", "seed")}
metadata["models"] |= {"text_to_image": learned_on, "inpainting": origin}
metadata["generator"] = "diffusion"
pictures = open_pictures(files.images, files.cache)
masks = masks_of(objects)


def make(parts: list[pd.DataFrame], done: Callable[[int], None]) -> Iterator[pa.Table]:
    for rows in inpaint_parts(pipeline, parts, pictures, masks, settings=settings, compute=compute):
        done(len(rows))
        yield as_table(rows, GENERATED, metadata)


depends_on = {**dict(params.items()), "origin": origin, "libraries": library_versions()}
n = write_rows_in_parts(
    snakemake.output.generated,
    plan(objects, metadata["classes"], **planning, tokens=tokens),
    make,
    size=BATCHES * settings.batch_size,
    what="inpainting",
    depends_on=job.depends_on(depends_on, [files.images, files.objects, *files.tokens], str(compute.device)),
    shard=Shard.named(snakemake.wildcards.get("scatteritem")),
)
job.finish("DDB", f"{n:,} images generated or accounted for")
