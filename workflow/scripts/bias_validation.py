"""Fit the methods on validation splits of more and more bias."""

from importlib import import_module

from hsfm.analysis.validation_bias import ValidationBiasSettings, measure_validation_bias
from hsfm.core import job
from hsfm.core.files import write_frame
from hsfm.data.table import SPLITS
from hsfm.heads.head import read_erm_features

job.start(snakemake.log[0])
files, settings = snakemake.input, dict(snakemake.params.settings)
methods = {name: import_module(f"hsfm.methods.{name}").Settings(**settings[name]) for name in ("hsfm", "dfr", "llr")}
bias, hard_per_class = ValidationBiasSettings(**settings["validation_bias"]), settings["hard_set"]["hard_per_class"]
erm, splits = read_erm_features(files.heads, **{split: files[split] for split in SPLITS})
frame = measure_validation_bias(*splits, erm.head[0], bias=bias, settings=methods, hard_per_class=hard_per_class)
frame = frame.assign(dataset=snakemake.wildcards.dataset, run=int(snakemake.wildcards.run))
write_frame(snakemake.output[0], frame, {"checkpoint_sha256": erm.checkpoint_sha256})
methods = frame["method"].nunique()
job.finish("Validation bias", f"{methods} methods on {len(frame) // methods} subsamples")
