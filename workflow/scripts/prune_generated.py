"""Keep those generated images that show the object and are hard for ERM, and account for all of them."""

import pyarrow.parquet as pq

from hsfm.core import job
from hsfm.core.device import Compute
from hsfm.core.files import read_parquet_in_pieces, write_parquet
from hsfm.core.progress import track
from hsfm.data.open_images import open_pictures
from hsfm.data.store import CacheFiles
from hsfm.data.transforms import TransformSettings
from hsfm.heads.classifier import read_classifier
from hsfm.heads.erm_features import read_erm_features
from hsfm.methods.ddb.generated import GENERATED, PRUNED, as_table
from hsfm.methods.ddb.prune import PruneSettings, class_confidence, prune

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, params = snakemake.input, snakemake.params
settings = PruneSettings(**params.prune)
model = read_classifier(files.checkpoint, files.heads, standardization=files.standardization)
erm, (train,) = read_erm_features(files.heads, train=files.train)
pieces, metadata = read_parquet_in_pieces(files.generated, GENERATED, settings.batch_size)
pruned = prune(
    model.trained.network,
    (piece.to_pylist() for piece in pieces),
    open_pictures(files.images, CacheFiles.of(files.cache, params.decode_size)),
    class_confidence(erm.head[0], train),
    TransformSettings(**params.transform),
    settings=settings,
    compute=Compute.on(params.device, **params.compute),
)
rows = list(track(pruned, "pruning", "image", pq.read_metadata(files.generated).num_rows))
metadata |= {"checkpoint_sha256": model.checkpoint_sha256, "rules": params.prune}
write_parquet(snakemake.output.pruned, as_table(rows, PRUNED, metadata), {})
for y, name in enumerate(metadata["classes"]):
    kept = [row["kept"] for row in rows if row["y"] == y]
    job.log.info("%s: %d of %d generated images kept", name, sum(kept), len(kept))
job.finish("DDB", f"{sum(row['kept'] for row in rows):,} of {len(rows):,} generated images kept")
