"""Fit DaC's head of one seed."""

from hsfm.core import job
from hsfm.core.device import Compute
from hsfm.core.files import write_frame
from hsfm.core.text import kept_epochs
from hsfm.data.open_images import open_splits
from hsfm.data.store import CacheFiles
from hsfm.heads.classifier import read_classifier
from hsfm.heads.erm_features import read_erm_features
from hsfm.heads.head import SavedHeads, picked_by, stack, write_heads
from hsfm.methods.dac.fit import SELECT_BY, fit_dac
from hsfm.methods.dac.masks import read_masks
from hsfm.models.backbone import write_retrained

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, outputs, params, seed = snakemake.input, snakemake.output, snakemake.params, int(snakemake.wildcards.seed)
# its network's own head is not used, but is known to fit the embeddings
model = read_classifier(files.checkpoint, files.heads, standardization=files.standardisation)
erm, (train, val) = read_erm_features(files.heads, train=files.train, val=files.val)
masks = read_masks(files.masks, split="train")
masks.require_checkpoint(model.checkpoint_sha256, files.checkpoint)
masks.require_transform(params.transform)
image_id = {"train": train.image_id, "val": val.image_id}
result = fit_dac(
    model.trained.network,
    train,
    val,
    erm.head[0],
    masks.of(train.image_id),
    open_splits(files.images, CacheFiles.of(files.cache, params.decode_size), image_id),
    model.standardization if params.standardised else None,
    seed=seed,
    **params.dac,
    transform=params.transform,
    compute=Compute.on(params.device, **params.compute),
)
write_frame(outputs.history, result.history)
origin, remark = train.checkpoint_sha256, ""
if result.network is not None:
    settings = {"dac": params.dac, "seed": seed}
    origin = write_retrained(outputs.checkpoint, result.network, model.trained, settings)
    remark = "scored on features of its own, since BatchNorm's statistics drifted"
saved = SavedHeads(
    head=stack([result.head]),
    method="dac",
    seeds=(seed,),
    class_names=train.class_names,
    checkpoint_sha256=origin,
    **picked_by(params.dac["select_by"], SELECT_BY),
    settings={**params.dac, "masks": masks.metadata["source"]},
    remarks=(remark,),
)
write_heads(outputs.heads, saved)
job.finish("DaC", kept_epochs(result.history))
