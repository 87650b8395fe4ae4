"""Inpaint the object of every source image as another class, by a diffusion model."""

from hsfm.core import job

# before all else: diffusers asks CUDA for its devices when it is imported
job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)

import json
from collections.abc import Iterator, Sequence

import diffusers
import pyarrow as pa
import transformers
from diffusers import StableDiffusionInpaintPipeline

from hsfm.core.device import Compute, choose_device
from hsfm.core.files import read_safetensors, require
from hsfm.core.progress import Progress
from hsfm.core.shards import Shard, cut, write_in_parts
from hsfm.data.open_images import open_pictures
from hsfm.data.store import CacheFiles
from hsfm.methods.ddb.diffusion_models import choose_dtype, find_model, load_pipeline, to_device
from hsfm.methods.ddb.generated import GENERATED, OBJECTS, as_table, plan, read_mask, read_table
from hsfm.methods.ddb.inpaint import inpaint_parts

BATCHES = 8  # of a part; what a killed job loses at most


def inpaint_objects(inputs: dict, output: str, shard: Shard, cache: CacheFiles | None, settings: dict) -> str:
    objects, about = read_table(inputs["objects"], OBJECTS)
    compute = Compute(choose_device(settings["device"]), **settings["compute"])
    models, ddb = settings["models"], settings["ddb"]
    drawing = ddb["inpaint"]
    model = find_model(**models["inpainting"], local_files_only=models["local_files_only"], pipeline=True)
    pipeline = load_pipeline(StableDiffusionInpaintPipeline, model, choose_dtype(models["precision"], compute))
    names, learnt_on = add_tokens(pipeline, inputs["tokens"], about["classes"])
    to_device(pipeline, compute, {key: models[key] for key in ("attention_slicing", "cpu_offload")})

    rows = plan(objects, about["classes"], images_per_source=ddb["images_per_source"], seed=ddb["seed"], tokens=names)
    masks = {one.image_id: read_mask(one.mask) for one in objects.itertuples() if one.mask is not None}
    pictures = open_pictures(inputs["images"], cache)
    size = tuple(drawing["size"])
    parts = cut(rows, BATCHES * drawing["batch_size"])
    share = shard.take(len(parts))
    about = {
        **about,
        "generator": "diffusion",
        "models": {**about["models"], "text_to_image": learnt_on, "inpainting": model.origin},
    }
    bar = Progress("inpainting", sum(len(parts[number]) for number in share), "image")

    def make(missing: Sequence[int]) -> Iterator[pa.Table]:
        chosen = [parts[number] for number in missing]
        for finished in inpaint_parts(pipeline, chosen, pictures, masks, **{**drawing, "size": size}, compute=compute):
            bar.update(len(finished))
            yield as_table(finished, GENERATED, about)

    files = [inputs["images"], inputs["objects"], *inputs["tokens"], *inputs["code"]]
    depends_on = job.depends_on(
        {**settings, "origin": model.origin, "libraries": [diffusers.__version__, transformers.__version__]},
        files,
        str(compute.device),
    )
    # PNG is compressed already
    write_in_parts(output, share, make, depends_on=depends_on, compression="none")
    bar.close()
    return f"{sum(len(parts[number]) for number in share):,} images generated or accounted for"


def add_tokens(
    pipeline: StableDiffusionInpaintPipeline, files: Sequence[str], class_names: Sequence[str]
) -> tuple[list[str], dict[str, str]]:
    """Teach a pipeline the learnt words, one per class; these, and the model they were learnt on.

    Raises ValueError for one of another class or size.
    """
    names = []
    width = pipeline.text_encoder.get_input_embeddings().weight.shape[1]
    for path, class_name in zip(files, class_names, strict=True):
        tensors, metadata = read_safetensors(path)
        require(metadata, ("token", "class", "model"), path)
        embedding = tensors["embedding"]
        if metadata["class"] != class_name:
            raise ValueError(f"{path}: is for class {metadata['class']!r}, expected {class_name!r}")
        if embedding.shape != (width,):
            raise ValueError(
                f"{path}: has {len(embedding)} numbers, but the inpainting model's text encoder has {width}; it was "
                f"learnt on {json.loads(metadata['model'])['name']}, which has to share its text encoder"
            )
        pipeline.load_textual_inversion({metadata["token"]: embedding}, token=metadata["token"])
        names.append(metadata["token"])
    return names, json.loads(metadata["model"])


made = inpaint_objects(
    dict(snakemake.input.items()),
    snakemake.output.generated,
    Shard.named(snakemake.wildcards.get("shard")),
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
    dict(snakemake.params.items()),
)
job.finish("DDB", made)
