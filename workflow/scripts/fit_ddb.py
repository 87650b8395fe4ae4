"""Retrain ERM's network beside the generated images that were kept, with one seed."""

from hsfm.core import job
from hsfm.core.device import Compute
from hsfm.core.files import write_frame
from hsfm.data.open_images import open_source
from hsfm.data.table import read_images
from hsfm.data.transforms import AugmentationSettings, TransformSettings
from hsfm.heads.classifier import read_classifier
from hsfm.heads.head import read_erm_features, write_heads
from hsfm.heads.supervision import hidden, labels_used, scorer_of
from hsfm.methods.ddb.fit import DDBInputs, Settings, fit, kept_images
from hsfm.methods.ddb.generated import GENERATED, PRUNED, read_table
from hsfm.models.backbone import write_retrained
from hsfm.models.erm import LabeledImages, TrainingData

METHODS = {"diffusion": "ddb", "cut_paste": "ddb_cut_paste"}  # how tables call it
OBJECTS_OF = {
    "heat_map": "objects cut out by the heat maps of ERM's network",
    "dataset": "objects cut out along the masks that the dataset knows",
}

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, outputs, params, seed = snakemake.input, snakemake.output, snakemake.params, int(snakemake.wildcards.seed)
model = read_classifier(files.checkpoint, files.heads, standardization=files.standardization)
erm, (train, val) = read_erm_features(files.heads, train=files.train, val=files.val)
pruned, metadata = read_table(files.pruned, PRUNED)
table, source = read_images(files.images), open_source(files.images, files.cache)
data = TrainingData(
    LabeledImages.of(table.split("train"), source),
    LabeledImages.of(table.split("val"), source),
    TransformSettings(**params.transform),
    AugmentationSettings(**params.augmentation),
)
generated = kept_images(read_table(files.generated, GENERATED)[0], pruned, train.n_classes)
compute, settings = Compute.on(params.device, **params.compute), Settings(**params.ddb)
scorer, seen = scorer_of(settings, train, val), hidden(settings, train, val)
read = [files[name] for name in ("checkpoint", "heads", "standardization", "images", "generated", "pruned")]
depends_on = job.depends_on({**dict(params.items()), "seed": seed}, read, str(compute.device))
with job.resuming(outputs.checkpoint, depends_on) as resume:
    inputs = DDBInputs(model.trained.network, data, generated, compute, resume)
    fitted = fit(*seen, erm.head[0], settings=settings, seeds=(seed,), scorer=scorer, inputs=inputs)
    write_frame(outputs.history, fitted.tables["history"])
    retraining = {**params.ddb["retrain"], "select_by": scorer.rule}
    described = {"ddb": retraining, "seed": seed}
    origin = write_retrained(outputs.checkpoint, fitted.networks[0], model.trained, described)
    of_cut_paste = [OBJECTS_OF[metadata["source"]]] if metadata["generator"] == "cut_paste" else []
    saved = fitted.saved(
        method=METHODS[metadata["generator"]],
        class_names=train.class_names,
        checkpoint_sha256=origin,
        group_labels=labels_used(settings, scorer),
        settings={**retraining, "generator": metadata["generator"], "models": metadata["models"]},
        remarks=tuple("; ".join([*of_cut_paste, *filter(None, [remark])]) for remark in fitted.remarks),
    )
    write_heads(outputs.heads, saved)
job.finish("DDB", fitted.summary)
