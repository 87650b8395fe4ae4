"""Fit DaC's head of one seed."""

from hsfm.core import job
from hsfm.core.device import Compute
from hsfm.core.files import write_frame
from hsfm.data.open_images import open_source
from hsfm.data.table import read_images
from hsfm.data.transforms import TransformSettings
from hsfm.heads.classifier import read_classifier
from hsfm.heads.head import read_erm_features, write_heads
from hsfm.heads.supervision import hidden, labels_used, scorer_of
from hsfm.methods.dac.fit import DaCInputs, Settings, fit
from hsfm.methods.dac.masks import read_masks
from hsfm.models.backbone import write_retrained

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, outputs, params, seed = snakemake.input, snakemake.output, snakemake.params, int(snakemake.wildcards.seed)
# its network's own head is not used, but is known to fit the embeddings
model = read_classifier(files.checkpoint, files.heads, standardization=files.standardization)
erm, (train, val) = read_erm_features(files.heads, train=files.train, val=files.val)
masks = read_masks(files.masks, split="train")
masks.require(checkpoint_sha256=model.checkpoint_sha256, transform=params.transform)
table, source = read_images(files.images), open_source(files.images, files.cache)
standardization = model.standardization if params.standardized else None
compute, transform = Compute.on(params.device, **params.compute), TransformSettings(**params.transform)
images = masks.of(train.image_id), lambda split: source(table.split(split))
inputs = DaCInputs(model.trained.network, transform, standardization, compute, *images)
settings = Settings(**params.dac)
scorer = scorer_of(settings, train, val)
fitted = fit(*hidden(settings, train, val), erm.head[0], settings=settings, seeds=(seed,), scorer=scorer, inputs=inputs)
write_frame(outputs.history, fitted.tables["history"])
origin = train.checkpoint_sha256
if fitted.networks:
    origin = write_retrained(outputs.checkpoint, fitted.networks[0], model.trained, {"dac": params.dac, "seed": seed})
saved = fitted.saved(
    method="dac",
    class_names=train.class_names,
    checkpoint_sha256=origin,
    group_labels=labels_used(settings, scorer),
    settings={**params.dac, "select_by": scorer.rule, "masks": masks.metadata["source"]},
)
write_heads(outputs.heads, saved)
job.finish("DaC", fitted.summary)
