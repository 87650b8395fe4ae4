"""Keep those generated images that show the object and are hard for ERM, and account for all of them."""

from hsfm.core import job
from hsfm.core.device import Compute
from hsfm.core.files import write_parquet
from hsfm.core.progress import track
from hsfm.data.open_images import open_pictures
from hsfm.data.transforms import TransformSettings
from hsfm.heads.classifier import read_classifier
from hsfm.heads.head import read_erm_features
from hsfm.methods.ddb.generated import GENERATED, PRUNED, as_table, read_table
from hsfm.methods.ddb.prune import PruneSettings, class_confidence, prune

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, params = snakemake.input, snakemake.params
model = read_classifier(files.checkpoint, files.heads, standardization=files.standardization)
erm, (train,) = read_erm_features(files.heads, train=files.train)
generated, metadata = read_table(files.generated, GENERATED)
settings = PruneSettings(**params.prune)
sources = set(generated["source_id"]) if settings.rule == "sum" else None
pruned = prune(
    model.trained.network,
    generated.to_dict("records"),
    open_pictures(files.images, files.cache),
    class_confidence(erm.head[0], train, sources),
    TransformSettings(**params.transform),
    settings=settings,
    compute=Compute.on(params.device, **params.compute),
)
rows = list(track(pruned, "pruning", "image", len(generated)))
metadata |= {"checkpoint_sha256": model.checkpoint_sha256, "rules": params.prune}
write_parquet(snakemake.output.pruned, as_table(rows, PRUNED, metadata), {})
job.finish("DDB", f"{sum(row['kept'] for row in rows):,} of {len(rows):,} generated images kept")
