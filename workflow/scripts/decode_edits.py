"""Show HSFM's edits of CLIP embeddings as pictures, before and after, and ask CLIP what they show."""

from hsfm.core import job

# before all else: diffusers asks CUDA for its devices when it is imported
job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)

import torch
from diffusers import StableUnCLIPImg2ImgPipeline

from hsfm.analysis.edits import largest_of_each_group, read_edits
from hsfm.analysis.unclip import UnclipSettings, as_table, classify, decode
from hsfm.core.device import Compute
from hsfm.core.files import write_parquet
from hsfm.data.table import read_images
from hsfm.data.transforms import TransformSettings
from hsfm.features.standardize import read_standardization
from hsfm.methods.ddb.diffusion_models import read_pipeline, to_device
from hsfm.methods.hsfm.support import read_support
from hsfm.models.clip import PREFIX, ZeroShot

inputs, params = snakemake.input, snakemake.params
settings = UnclipSettings(**params.unclip)
edits, metadata = read_edits(inputs.edits)
names = read_images(inputs.images)
rows = largest_of_each_group(edits[edits["seed"] == edits["seed"].iloc[0]], settings.rows_per_group)
places = torch.tensor(rows.index.to_numpy())
support, (standardization, _) = read_support(inputs.support), read_standardization(inputs.standardization)
# the raw projections, whatever they were brought to for HSFM
raw = {name: standardization.undo(getattr(support, name)[places]) for name in ("before", "after")}
compute = Compute.on(params.device, **params.compute)
zero_shot = ZeroShot(params.backbone["name"].removeprefix(PREFIX), settings.prompts, compute.device)
pipeline, origin = read_pipeline(StableUnCLIPImg2ImgPipeline, settings.model, settings, compute)
to_device(pipeline, compute, settings)
pictures = decode(pipeline, raw, list(rows["image_id"]), settings, compute)
transform = TransformSettings(**params.transform)
probabilities = {name: classify(zero_shot, part, transform, compute) for name, part in pictures.items()}
table, described = as_table(rows, pictures, probabilities), {"prompts": list(settings.prompts), "model": origin}
described |= {"dataset": names.dataset, "class_names": metadata["class_names"]}
write_parquet(snakemake.output[0], table, described, compression="none")
moved = table["moved"].to_pylist()
job.finish("CLIP", f"another attribute seen after the edit in {sum(moved)} of {len(moved)} pairs")
