"""Show HSFM's edits of CLIP embeddings as pictures, before and after, and ask CLIP what they show."""

from hsfm.core import job

# before all else: diffusers asks CUDA for its devices when it is imported
job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)

from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from diffusers import StableUnCLIPImg2ImgPipeline
from torch import Tensor

from hsfm.analysis.edits import DECODED, largest_of_each_group, read_edits
from hsfm.analysis.unclip import decode
from hsfm.core.device import Compute, choose_device
from hsfm.core.files import encode, write_parquet
from hsfm.core.progress import track
from hsfm.data.pixels import pack
from hsfm.data.table import read_names
from hsfm.data.transforms import prepare
from hsfm.features.standardize import read_standardisation
from hsfm.methods.ddb.diffusion_models import choose_dtype, find_model, load_pipeline, to_device
from hsfm.methods.ddb.generated import as_png, seed_of
from hsfm.methods.hsfm.support import read_support
from hsfm.models.clip import PREFIX, ZeroShot


def decode_edits(inputs: dict, output: str, settings: dict) -> str:
    edits, about = read_edits(inputs["edits"])
    names, unclip = read_names(inputs["images"]), settings["unclip"]
    if len(unclip["prompts"]) != len(names.attribute_names):
        raise ValueError(
            f"unclip/prompts: {len(unclip['prompts'])}, but {names.dataset} has {len(names.attribute_names)} "
            f"attributes ({', '.join(names.attribute_names)}); give one for each"
        )
    rows = largest_of_each_group(edits[edits["seed"] == edits["seed"].iloc[0]], unclip["rows_per_group"])
    support = read_support(inputs["support"])
    standardisation, _ = read_standardisation(inputs["standardisation"])
    # on the raw projections, whatever they were brought to for HSFM
    before, after = (
        standardisation.undo(part[torch.tensor(rows.index.to_numpy())]) for part in (support.before, support.after)
    )
    compute = Compute(choose_device(settings["device"]), **settings["compute"])
    judge = judge_of(settings, unclip["prompts"], compute)
    model = find_model(**unclip["model"], local_files_only=unclip["local_files_only"], pipeline=True)
    pipeline = load_pipeline(StableUnCLIPImg2ImgPipeline, model, choose_dtype(unclip["precision"], compute))
    to_device(pipeline, compute, {key: unclip[key] for key in ("attention_slicing", "cpu_offload")})
    # the same noise before and after, so that nothing but the edit tells them apart
    seeds = [seed_of(unclip["seed"], image_id) for image_id in rows["image_id"]]
    drawing = {key: unclip[key] for key in ("steps", "guidance", "noise_level", "batch_size")}
    made = decode(
        pipeline, torch.cat([before, after]), 2 * seeds, **drawing, size=tuple(unclip["size"]), compute=compute
    )
    pictures = list(track(made, "decoding", "image", 2 * len(rows)))
    pictures = {"before": pictures[: len(rows)], "after": pictures[len(rows) :]}
    judged = {when: judge(part) for when, part in pictures.items()}
    described = {"dataset": names.dataset, "prompts": unclip["prompts"], "model": model.origin}
    table = as_table(rows, pictures, judged, {**described, "class_names": about["class_names"]})
    moved = table["moved"].to_pylist()
    job.log.info("CLIP sees another attribute after the edit in %d of %d pairs", sum(moved), len(moved))
    write_parquet(output, table, {}, compression="none")
    return f"{sum(moved)} of {len(moved)} pairs"


def judge_of(settings: dict, prompts: list[str], compute: Compute) -> Callable[[list[np.ndarray]], Tensor]:
    """What CLIP takes pictures for: probabilities of the prompts [n k]."""
    zero_shot = ZeroShot(settings["backbone"]["name"].removeprefix(PREFIX), prompts, compute.device)

    def judge(pictures: list[np.ndarray]) -> Tensor:
        parts = (pack([picture]).to(compute.device) for picture in pictures)
        return torch.cat([zero_shot(prepare(part, settings["transform"])) for part in parts]).cpu()

    return judge


def as_table(rows: pd.DataFrame, pictures: dict, judged: dict, about: dict) -> pa.Table:
    records = []
    for number, row in enumerate(rows.itertuples()):
        found = {when: judged[when][number] for when in ("before", "after")}
        records.append(
            {
                "seed": row.seed,
                "image_id": row.image_id,
                "y": row.y,
                "attribute": None if pd.isna(row.attribute) else row.attribute,
                "length": row.length,
                **{f"picture_{when}": as_png(pictures[when][number]) for when in found},
                **{f"probabilities_{when}": value.tolist() for when, value in found.items()},
                **{f"attribute_{when}": int(value.argmax()) for when, value in found.items()},
                "moved": bool(found["before"].argmax() != found["after"].argmax()),
            }
        )
    return pa.Table.from_pylist(records, schema=DECODED).replace_schema_metadata(encode(about, DECODED))


shown = decode_edits(
    dict(snakemake.input.items()),
    snakemake.output[0],
    dict(snakemake.params.items()),
)
job.finish("CLIP", f"another attribute seen after the edit in {shown}")
