"""Paste objects of one class into scenes of another, out of which their own object is erased."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from hsfm.core import job
from hsfm.core.progress import Progress
from hsfm.core.shards import Shard, cut, write_in_parts
from hsfm.data.open_images import open_pictures
from hsfm.data.store import CacheFiles
from hsfm.methods.ddb.cut_paste import cut_paste, leaves_surroundings
from hsfm.methods.ddb.generated import (
    GENERATED,
    NOTHING_FOUND,
    OBJECTS,
    as_png,
    as_table,
    mask_as_png,
    plan,
    read_mask,
    read_table,
)

PART = 64  # images; what a killed job loses at most
NO_DONOR = "no object was found in any source of the class"
NO_SCENE = "the object covers the whole source"


def paste_objects(
    inputs: dict, output: str, shard: Shard, cache: CacheFiles | None, settings: dict, threads: int
) -> str:
    objects, about = read_table(inputs["objects"], OBJECTS)
    about, ddb = {**about, "generator": "cut_paste"}, settings["ddb"]
    masks = {one.image_id: read_mask(one.mask) for one in objects.itertuples() if one.mask is not None}
    donors = {y: [one for one in part["image_id"] if one in masks] for y, part in objects.groupby("y")}
    pictures = open_pictures(inputs["images"], cache)
    how = {key: ddb["cut_paste"][key] for key in ("margin", "radius")}

    def paste(row: dict) -> dict:
        if row["source_id"] not in masks:
            return {**row, "mask_area": 0.0, "why_not": NOTHING_FOUND}
        if not donors[row["y"]]:
            return {**row, "mask_area": 0.0, "why_not": NO_DONOR}
        if not leaves_surroundings(masks[row["source_id"]], margin=how["margin"]):
            return {**row, "mask_area": 0.0, "why_not": NO_SCENE}
        # of the image's own seed, so that it does not depend on the others
        donor = donors[row["y"]][np.random.default_rng(row["seed"]).integers(len(donors[row["y"]]))]
        scene, giver = pictures([row["source_id"], donor])
        image, where = cut_paste(scene, masks[row["source_id"]], giver, masks[donor], **how)
        return {
            **row,
            "donor_id": donor,
            "mask_area": float(where.mean()),
            "image": as_png(image),
            "mask": mask_as_png(where),
        }

    rows = plan(objects, about["classes"], images_per_source=ddb["images_per_source"], seed=ddb["seed"])
    parts = cut(rows, PART)
    share = shard.take(len(parts))
    bar = Progress("pasting", sum(len(parts[number]) for number in share), "image")

    def make(missing: Sequence[int]) -> Iterator[pa.Table]:
        with ThreadPoolExecutor(threads) as pool:
            for number in missing:
                made = []
                for row in pool.map(paste, parts[number].to_dict("records")):
                    made.append(row)
                    bar.update(1)
                yield as_table(made, GENERATED, about)

    files = [inputs["images"], inputs["objects"], *inputs["code"]]
    # PNG is compressed already
    write_in_parts(output, share, make, depends_on=job.depends_on(settings, files, "cpu"), compression="none")
    bar.close()
    return f"{sum(len(parts[number]) for number in share):,} images generated or accounted for"


job.start(snakemake.log[0])
made = paste_objects(
    dict(snakemake.input.items()),
    snakemake.output.generated,
    Shard.named(snakemake.wildcards.get("shard")),
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
    dict(snakemake.params.items()),
    snakemake.threads,
)
job.finish("DDB", made)
