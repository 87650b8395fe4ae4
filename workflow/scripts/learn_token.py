"""Learn a word for the objects of one class by textual inversion."""

from hsfm.core import job

# before all else: diffusers asks CUDA for its devices when it is imported
job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)

import json
import re
from collections.abc import Sequence
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline

from hsfm.core.device import Compute, choose_device
from hsfm.core.files import fingerprint, write_frame, write_safetensors
from hsfm.data.open_images import open_pictures
from hsfm.data.resize import resize
from hsfm.data.table import read_images
from hsfm.methods.ddb.diffusion_models import choose_dtype, find_model, load_pipeline, to_device
from hsfm.methods.ddb.textual_inversion import learn_token


def learn(inputs: dict, token_file: str, history_file: str, label: int, settings: dict) -> str:
    table = read_images(inputs["images"])
    if label >= len(table.class_names):
        raise ValueError(
            f"ddb/retrain/weights: asks for class {label}, but {table.dataset} has {len(table.class_names)} classes"
        )
    compute = Compute(choose_device(settings["device"]), **settings["compute"])
    models, learning = settings["models"], dict(settings["token"])
    model = find_model(**models["text_to_image"], local_files_only=models["local_files_only"], pipeline=True)
    pipeline = load_pipeline(StableDiffusionPipeline, model, choose_dtype(models["precision"], compute))
    # without offload: the whole model takes part in every step
    to_device(pipeline, compute, {"attention_slicing": models["attention_slicing"], "cpu_offload": False})

    name = table.class_names[label]
    token = token_of(label, table.class_names)
    rows = table.split("train")
    own = rows.loc[rows["y"] == label, "image_id"].to_list()
    chosen = torch.randperm(len(own), generator=torch.Generator().manual_seed(learning["seed"]))
    image_id = [own[number] for number in chosen[: learning.pop("images")].tolist()]
    # files as they are, and not out of the cache, whose images are no larger than the classifier needs
    pictures = open_pictures(inputs["images"])(image_id)
    size = learning.pop("size")
    images = torch.stack([resize(torch.from_numpy(picture).permute(2, 0, 1), *size) for picture in pictures])

    origins = {
        **settings,
        "label": label,
        "origin": model.origin,
        "libraries": [diffusers.__version__, transformers.__version__],
    }
    key = fingerprint(job.depends_on(origins, [inputs["images"], *inputs["code"]], str(compute.device)))
    resume = Path(token_file).with_name(f".resume-class{label}-{key}.safetensors")
    learnt = learn_token(pipeline, images, token=token, **learning, compute=compute, resume=resume)
    write_frame(history_file, learnt.history)
    metadata = {
        "dataset": table.dataset,
        "token": token,
        "class": name,
        "label": str(label),
        "model": json.dumps(model.origin),
        "images": json.dumps(image_id),
        "settings": json.dumps(settings["token"]),
    }
    write_safetensors(token_file, {"embedding": learnt.embedding}, metadata)
    for leftover in resume.parent.glob(f".resume-class{label}-*.safetensors"):
        leftover.unlink()
    return f"word {token}, loss {learnt.history['loss'].iloc[-1]:.4f} after {len(learnt.history):,} steps"


def token_of(label: int, class_names: Sequence[str]) -> str:
    """A word for a class, after its name: <water-bird>; with its number where that says too little."""
    plain = [re.sub("[^a-z0-9]+", "-", name.lower()).strip("-") for name in class_names]
    return f"<{plain[label]}>" if plain[label] and plain.count(plain[label]) == 1 else f"<{plain[label]}-class{label}>"


learnt = learn(
    dict(snakemake.input.items()),
    snakemake.output.token,
    snakemake.output.history,
    int(snakemake.wildcards.label),
    dict(snakemake.params.items()),
)
job.finish("DDB", learnt)
