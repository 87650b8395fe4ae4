"""Retrain ERM's network beside the generated images that were kept, with one seed."""

from hsfm.core import job
from hsfm.core.device import Compute
from hsfm.core.files import write_frame
from hsfm.core.text import kept_epochs
from hsfm.data.open_images import open_source
from hsfm.data.store import CacheFiles
from hsfm.data.table import read_images
from hsfm.heads.classifier import read_classifier
from hsfm.heads.head import Head, SavedHeads, picked_by, stack, write_heads
from hsfm.methods.ddb.fit import SELECT_BY, kept_images, missing_images, retrain
from hsfm.methods.ddb.generated import GENERATED, PRUNED, read_table
from hsfm.models.backbone import write_retrained
from hsfm.models.erm import LabeledImages

METHODS = {"diffusion": "ddb", "cut_paste": "ddb_cut_paste"}  # how tables call it
OBJECTS_OF = {
    "heat_map": "objects cut out by the heat maps of ERM's network",
    "dataset": "objects cut out along the masks that the dataset knows",
}

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, outputs, params, seed = snakemake.input, snakemake.output, snakemake.params, int(snakemake.wildcards.seed)
model = read_classifier(files.checkpoint, files.heads, standardization=files.standardisation)
network, class_names = model.trained.network, model.trained.class_names
pruned, metadata = read_table(files.pruned, PRUNED)
if metadata["checkpoint_sha256"] != model.checkpoint_sha256:
    raise ValueError(
        f"{files.pruned}: was pruned by checkpoint {metadata['checkpoint_sha256']}, but {files.checkpoint} is "
        f"{model.checkpoint_sha256}"
    )
generated = kept_images(read_table(files.generated, GENERATED)[0], pruned, class_names)
table, source = read_images(files.images), open_source(files.images, CacheFiles.of(files.cache, params.decode_size))
compute = Compute.on(params.device, **params.compute)
read = [files[name] for name in ("checkpoint", "heads", "standardisation", "images", "generated", "pruned")]
depends_on = job.depends_on({**dict(params.items()), "seed": seed}, read, str(compute.device))
with job.resuming(outputs.checkpoint, depends_on) as resume:
    history = retrain(
        network,
        LabeledImages.of(table, source, "train"),
        generated,
        LabeledImages.of(table, source, "val"),
        **params.retrain,
        transform=params.transform,
        augmentation=params.augmentation,
        seed=seed,
        compute=compute,
        resume=resume,
    )
    write_frame(outputs.history, history)
    origin = write_retrained(outputs.checkpoint, network, model.trained, {"ddb": params.retrain, "seed": seed})
    of_cut_paste = [OBJECTS_OF[metadata["source"]]] if metadata["generator"] == "cut_paste" else []
    picked = picked_by(params.retrain["select_by"], SELECT_BY)
    saved = SavedHeads(
        head=stack([Head.of(network.fc)]),
        method=METHODS[metadata["generator"]],
        seeds=(seed,),
        class_names=class_names,
        checkpoint_sha256=origin,
        **(picked if any(generated) else {"group_labels": "none", "chosen_by": "ERM's own"}),
        settings={**params.retrain, "generator": metadata["generator"], "models": metadata["models"]},
        remarks=("; ".join([*of_cut_paste, *missing_images(generated, class_names)]),),
    )
    write_heads(outputs.heads, saved)
job.finish("DDB", kept_epochs(history) if any(generated) else "no generated image was kept: ERM's own network")
