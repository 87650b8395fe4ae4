"""Learn a word for the objects of one class by textual inversion."""

from hsfm.core import job

# before all else: diffusers asks CUDA for its devices when it is imported
job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)

import json

import torch
from diffusers import StableDiffusionPipeline

from hsfm.core.device import Compute
from hsfm.core.files import write_frame, write_safetensors
from hsfm.data.open_images import open_pictures
from hsfm.data.resize import resize
from hsfm.data.table import read_images
from hsfm.methods.ddb.diffusion_models import LoadingSettings, ModelSettings, library_versions, read_pipeline, to_device
from hsfm.methods.ddb.textual_inversion import TokenSettings, learn_token, token_of

path, label = snakemake.input.images, int(snakemake.wildcards.label)
outputs, params = snakemake.output, snakemake.params
table = read_images(path)
if label >= (known := len(table.class_names)):
    raise ValueError(f"ddb/retrain/weights: asks for class {label}, but {table.dataset} has {known} classes, from 0")
compute = Compute.on(params.device, **params.compute)
# without offload: the whole model takes part in every step
loading = LoadingSettings.among({**params.models, "cpu_offload": False})
model = ModelSettings(**params.models["text_to_image"])
pipeline, origin = read_pipeline(StableDiffusionPipeline, model, loading, compute)
to_device(pipeline, compute, loading)

settings, rows = TokenSettings(**params.token), table.split("train")
own = rows.loc[rows["y"] == label, "image_id"].to_list()
order = torch.randperm(len(own), generator=torch.Generator().manual_seed(settings.seed))
image_id = [own[number] for number in order[: settings.images].tolist()]
# files as they are, and not out of the cache, whose images are no larger than the classifier needs
pictures = open_pictures(path)(image_id)
images = torch.stack([resize(torch.from_numpy(picture).permute(2, 0, 1), *settings.size) for picture in pictures])

token = token_of(label, table.class_names)
origins = {**dict(params.items()), "label": label, "origin": origin, "libraries": library_versions()}
depends_on = job.depends_on(origins, [path], str(compute.device))
with job.resuming(outputs.token, depends_on, f"class{label}-") as resume:
    embedding, history = learn_token(pipeline, images, token=token, settings=settings, compute=compute, resume=resume)
    write_frame(outputs.history, history)
    metadata = {
        "dataset": table.dataset,
        "token": token,
        "class": table.class_names[label],
        "label": str(label),
        "model": json.dumps(origin),
        "images": json.dumps(image_id),
        "settings": json.dumps(params.token),
    }
    write_safetensors(outputs.token, {"embedding": embedding}, metadata)
job.finish("DDB", f"word {token}, loss {history['loss'].iloc[-1]:.4f} after {len(history):,} steps")
