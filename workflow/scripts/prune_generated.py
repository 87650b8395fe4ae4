"""Keep those generated images that show the object and are hard for ERM, and account for all of them."""

from collections.abc import Iterator

import pyarrow as pa
import torch

from hsfm.core import job
from hsfm.core.device import Compute, choose_device
from hsfm.core.files import read_parquet_in_pieces, write_parquet
from hsfm.core.progress import Progress
from hsfm.data.open_images import open_pictures
from hsfm.data.pixels import pack
from hsfm.data.store import CacheFiles
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.classifier import read_classifier
from hsfm.heads.head import read_heads
from hsfm.methods.ddb.fit import Pairs, class_confidence, judge, why_not
from hsfm.methods.ddb.generated import GENERATED, PRUNED, as_table, read_mask, read_png


def prune_generated(inputs: dict, output: str, cache: CacheFiles | None, settings: dict) -> str:
    model = read_classifier(inputs["checkpoint"], inputs["heads"], standardisation=inputs["standardisation"])
    train, erm = read_embeddings(inputs["train"], split="train"), read_heads(inputs["heads"])
    erm.check_fits(train, inputs["train"])
    confidence = class_confidence(erm.head[0], train)
    compute = Compute(choose_device(settings["device"]), **settings["compute"])
    pictures, rule = open_pictures(inputs["images"], cache), settings["prune"]
    pieces, about = read_parquet_in_pieces(inputs["generated"], GENERATED, rule["batch_size"])
    waiting: list[list[dict]] = []  # rows of pieces that are being judged
    rows: list[dict] = []

    def pairs() -> Iterator[Pairs]:
        for piece in pieces:
            records = piece.to_pylist()
            rows.extend(records)
            made = [row for row in records if row["image"] is not None]
            if not made:
                continue
            waiting.append(made)
            yield Pairs(
                generated=pack([read_png(row["image"]) for row in made]),
                sources=pack(pictures([row["source_id"] for row in made])),
                masks=[read_mask(row["mask"]) for row in made],
                y=torch.tensor([row["y"] for row in made]),
            )

    with Progress("pruning", None, "image") as bar:
        for judged in judge(
            model.trained.network,
            pairs(),
            confidence,
            settings["transform"],
            min_attribution=rule["attribution"],
            steps=rule["steps"],
            compute=compute,
        ):
            made = waiting.pop(0)
            found = {
                "attribution": judged.attribution.tolist(),
                "probability": judged.probability.tolist(),
                "limit": judged.limit.tolist(),
                "why_not": why_not(judged, rule["attribution"]),
            }
            for number, row in enumerate(made):
                row.update({name: values[number] for name, values in found.items()})
                del row["image"], row["mask"]
            bar.update(len(made))
    pruned = [{**{name: row.get(name) for name in PRUNED.names}, "kept": row["why_not"] is None} for row in rows]
    about = {**about, "checkpoint_sha256": model.checkpoint_sha256, "rules": rule}
    table = as_table(pruned, PRUNED, about)
    write_parquet(output, table, {})
    report(table, about["classes"])
    return f"{sum(row['kept'] for row in pruned):,} of {len(pruned):,} generated images kept"


def report(table: pa.Table, class_names: list[str]) -> None:
    """Say in the log how many images of each class were kept."""
    rows = table.to_pylist()
    for y, name in enumerate(class_names):
        kept = [row["kept"] for row in rows if row["y"] == y]
        job.log.info("%s: %d of %d generated images kept", name, sum(kept), len(kept))


job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
kept = prune_generated(
    dict(snakemake.input.items()),
    snakemake.output.pruned,
    CacheFiles.of(snakemake.input.cache, snakemake.params.decode_size),
    dict(snakemake.params.items()),
)
job.finish("DDB", kept)
