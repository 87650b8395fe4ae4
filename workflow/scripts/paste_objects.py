"""Paste objects of one class into scenes of another, out of which their own object is erased."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from tqdm import tqdm

from hsfm import job
from hsfm.cut_paste import cut_paste, leaves_surroundings
from hsfm.files import write_parquet
from hsfm.generated import GENERATED, NOTHING_FOUND, OBJECTS, as_png, as_table, mask_as_png, plan, read_mask, read_table
from hsfm.pixel_cache import CacheFiles
from hsfm.source import open_pictures

NO_DONOR = "no object was found in any source of the class"
NO_SCENE = "the object covers the whole source"


def paste_objects(inputs: dict, output: str, cache: CacheFiles | None, ddb: dict, threads: int) -> None:
    objects, about = read_table(inputs["objects"], OBJECTS)
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
    with ThreadPoolExecutor(threads) as pool:
        made = pool.map(paste, rows.to_dict("records"))
        finished = list(tqdm(made, "pasting", len(rows), unit="image", disable=None))
    about = {**about, "generator": "cut_paste"}
    # PNG is compressed already
    write_parquet(output, as_table(finished, GENERATED, about), {}, row_group_size=64, compression="none")


job.start(snakemake.log[0])
paste_objects(
    dict(snakemake.input.items()),
    snakemake.output.generated,
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
    snakemake.params.ddb,
    snakemake.threads,
)
