"""Fit the methods on validation splits of more and more bias."""

from hsfm.analysis.validation_bias import measure_validation_bias
from hsfm.core import job
from hsfm.core.files import write_frame
from hsfm.evaluation.scores import SPLITS
from hsfm.heads.erm_features import read_erm_features

job.start(snakemake.log[0])
files, settings = snakemake.input, dict(snakemake.params.settings)
settings["hsfm"] = {**settings["hsfm"], **settings["hard_set"]}
erm, splits = read_erm_features(files.heads, **{split: files[split] for split in SPLITS})
frame = measure_validation_bias(*splits, erm.head[0], **settings["validation_bias"], settings=settings)
frame = frame.assign(dataset=snakemake.wildcards.dataset, run=int(snakemake.wildcards.run))
write_frame(snakemake.output[0], frame, {"checkpoint_sha256": erm.checkpoint_sha256})
methods = frame["method"].nunique()
job.finish("Validation bias", f"{methods} methods on {len(frame) // methods} subsamples")
