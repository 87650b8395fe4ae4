"""Find the object of every source image by GroundingDINO and SAM."""

from hsfm.core import job

# before all else: diffusers asks CUDA for its devices when it is imported
job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)

from collections.abc import Iterator, Sequence

import pyarrow as pa
import transformers

from hsfm.core.device import Compute, choose_device
from hsfm.core.progress import Progress
from hsfm.core.shards import write_in_parts
from hsfm.data.open_images import open_pictures
from hsfm.data.store import CacheFiles
from hsfm.methods.ddb.diffusion_models import find_model
from hsfm.methods.ddb.generated import OBJECTS, SOURCES, as_table, mask_as_png, read_table
from hsfm.methods.ddb.segment import Segmenter

PART = 64  # images; what a killed job loses at most


def segment_objects(inputs: dict, output: str, cache: CacheFiles | None, settings: dict) -> str:
    sources, about = read_table(inputs["sources"], SOURCES)
    compute = Compute(choose_device(settings["device"]), **settings["compute"])
    models = settings["models"]
    found = {
        name: find_model(**models[name], local_files_only=models["local_files_only"], pipeline=False)
        for name in ("detector", "segmenter")
    }
    segmenter = Segmenter(found["detector"], found["segmenter"], compute)
    about |= {"source": "GroundingDINO and SAM", "models": {name: model.origin for name, model in found.items()}}
    segmenting = {key: value for key, value in settings["segment"].items() if key != "batch_size"}
    pictures = open_pictures(inputs["images"], cache)
    bar = Progress("segmenting", len(sources), "image")

    def parts(missing: Sequence[int]) -> Iterator[pa.Table]:
        for number in missing:
            part, rows = sources.iloc[number * PART : (number + 1) * PART], []
            for first in range(0, len(part), settings["segment"]["batch_size"]):
                batch = part.iloc[first : first + settings["segment"]["batch_size"]]
                for source, one in zip(
                    batch.itertuples(), segmenter(pictures(batch["image_id"]), **segmenting), strict=True
                ):
                    there = one.mask is not None
                    rows.append(
                        {
                            "image_id": source.image_id,
                            "y": source.y,
                            "boxes": len(one.boxes),
                            "score": float(one.scores[0]) if len(one.scores) else None,
                            "area": float(one.mask.mean()) if there else 0.0,
                            "mask": mask_as_png(one.mask) if there else None,
                        }
                    )
                bar.update(len(batch))
            yield as_table(rows, OBJECTS, about)

    files = [inputs["images"], inputs["sources"], *inputs["code"]]
    origins = {**settings, "origins": about["models"], "transformers": transformers.__version__}
    write_in_parts(
        output, range(-(-len(sources) // PART)), parts, depends_on=job.depends_on(origins, files, str(compute.device))
    )
    bar.close()
    objects, _ = read_table(output, OBJECTS)
    return f"objects found in {int(objects['mask'].notna().sum()):,} of {len(objects):,} source images"


found = segment_objects(
    dict(snakemake.input.items()),
    snakemake.output.objects,
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
    dict(snakemake.params.items()),
)
job.finish("DDB", found)
