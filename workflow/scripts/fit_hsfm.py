"""Fit HSFM's heads, all seeds."""

from hsfm.core import job
from hsfm.core.device import choose_device
from hsfm.core.files import write_frame
from hsfm.core.text import kept_epochs
from hsfm.heads.erm_features import read_erm_features
from hsfm.heads.hard_set import read_hard_set
from hsfm.heads.head import SavedHeads, picked_by, write_heads
from hsfm.methods.hsfm.train import SELECT_BY, hard_groups, train, write_support

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, outputs, params = snakemake.input, snakemake.output, snakemake.params
settings = {**params.settings, **params.hard_set}
erm, (training, val) = read_erm_features(files.heads, train=files.train, val=files.val)
hard_set = read_hard_set(files.hard_set, val, per_class=settings["hard_per_class"])
place = choose_device(params.device)
result = train(
    training.to(place),
    val.to(place),
    erm.head[0].to(place),
    seeds=params.seeds,
    **settings,
    first_hard_set=None if settings["outer_set"] == "random" else hard_set,
)
write_frame(outputs.history, result.history)
write_frame(outputs.hard_groups, hard_groups(result, val))
write_support(outputs.support, result, training)
saved = SavedHeads(
    head=result.head,
    method="hsfm",
    seeds=result.seeds,
    class_names=training.class_names,
    checkpoint_sha256=training.checkpoint_sha256,
    **picked_by(settings["select_by"], SELECT_BY),
    settings={**settings, "kept_epoch": result.kept_epoch.tolist(), "moved": result.moved.tolist()},
    remarks=result.remarks,
)
write_heads(outputs.heads, saved)
job.finish("HSFM", kept_epochs(result.history))
