"""Columns of the Parquet files as Markdown, out of the schemas that the package writes and checks them by."""

from collections.abc import Iterator

import pyarrow as pa

from hsfm.analysis import edits, unclip
from hsfm.data import store, table
from hsfm.evaluation import scores
from hsfm.features import embeddings
from hsfm.heads import hard_set
from hsfm.methods.dac import masks
from hsfm.methods.ddb import generated
from hsfm.methods.hsfm import support

FILES = {
    "images.parquet": (table.SCHEMA, "the image table"),
    "embeddings/{split}.parquet": (embeddings.SCHEMA, "features and labels of one split"),
    "hard_set.parquet": (hard_set.SCHEMA, "validation images ranked by their loss"),
    "support.parquet": (support.SCHEMA, "HSFM's support rows before and after the edits"),
    "scores.parquet": (scores.SCHEMA, "correct predictions by seed, split and group"),
    "edits.parquet": (edits.SCHEMA, "what HSFM's edits mean, a row per support row and seed"),
    "hsfm/decoded.parquet": (unclip.SCHEMA, "edits as pictures"),
    "masks/{source}/train.parquet": (masks.SCHEMA, "masks; a last column `mask` holds the packed bits of each"),
    "decoded.parquet": (store.SCHEMA, "where each image lies in `decoded.npy`"),
    "ddb/sources.parquet": (generated.SOURCES, "DDB's source images"),
    "ddb/objects.parquet": (generated.OBJECTS, "the object in each"),
    "ddb/generated.parquet": (generated.GENERATED, "what was made of them"),
    "ddb/pruned.parquet": (generated.PRUNED, "which of them are kept"),
}


def reference() -> str:
    return "\n".join(_write())


def _write() -> Iterator[str]:
    for name, (schema, meaning) in FILES.items():
        yield f"### {name}\n\n{meaning[0].upper()}{meaning[1:]}.\n"
        yield "| column | type |\n| --- | --- |"
        yield from (f"| `{field.name}` | {_type(field.type)} |" for field in schema)
        yield ""


def _type(kind: pa.DataType) -> str:
    return "`fixed_size_list<float>[d]`" if pa.types.is_fixed_size_list(kind) else f"`{kind}`"
