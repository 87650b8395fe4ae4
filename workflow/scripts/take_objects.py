"""Take the object of every source image out of masks that are there."""

from hsfm.core import job
from hsfm.core.files import write_parquet
from hsfm.core.progress import track
from hsfm.data.open_images import open_pictures
from hsfm.data.store import CacheFiles
from hsfm.data.transforms import hide_masks
from hsfm.methods.dac.masks import read_masks, unpack
from hsfm.methods.ddb.generated import OBJECTS, SOURCES, as_table, mask_as_png, read_table


def take_objects(inputs: dict, output: str, cache: CacheFiles | None, transform: dict) -> str:
    sources, about = read_table(inputs["sources"], SOURCES)
    masks = read_masks(inputs["masks"], split="train")
    if masks.about["checkpoint_sha256"] != about["checkpoint_sha256"]:
        raise ValueError(
            f"{inputs['masks']}: masks are of checkpoint {masks.about['checkpoint_sha256']}, but {inputs['sources']} "
            f"is of {about['checkpoint_sha256']}"
        )
    masks.require_transform(transform)
    masks = masks.of(sources["image_id"])
    pictures = open_pictures(inputs["images"], cache)
    rows = []
    both = zip(sources.itertuples(), unpack(masks.packed, masks.size), strict=True)
    for source, seen in track(both, "taking objects", "image", len(sources)):
        (picture,) = pictures([source.image_id])
        mask = hide_masks(seen, picture.shape[:2], transform).numpy()
        there = bool(mask.any())
        rows.append(
            {
                "image_id": source.image_id,
                "y": source.y,
                "area": float(mask.mean()),
                "mask": mask_as_png(mask) if there else None,
            }
        )
    write_parquet(output, as_table(rows, OBJECTS, {**about, "source": masks.about["source"], "models": {}}), {})
    return f"objects taken from {sum(row['mask'] is not None for row in rows):,} of {len(rows):,} source images"


job.start(snakemake.log[0])
taken = take_objects(
    dict(snakemake.input.items()),
    snakemake.output.objects,
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
    snakemake.params.transform,
)
job.finish("DDB", taken)
