"""Fit one row of the tables on validation splits of more and more bias."""

from importlib import import_module

from hsfm.analysis.validation_bias import ValidationBiasSettings, measure_validation_bias
from hsfm.core import job
from hsfm.core.files import write_frame
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.fit_inputs import read_fit_inputs
from hsfm.report.names import method_label

job.start(snakemake.log[0])
files, params, row = snakemake.input, snakemake.params, snakemake.wildcards.method
run, method = int(snakemake.wildcards.run), import_module(f"hsfm.methods.{params.module}")
inputs, test = read_fit_inputs(files, {}, run), read_embeddings(files.test, split="test")
how = {
    "bias": ValidationBiasSettings(**params.bias),
    "rows": {row: (method, method.Settings(**params.settings))},
    "hard_per_class": params.hard_set["hard_per_class"],
}
frame = measure_validation_bias(inputs.train, inputs.val, test, inputs.erm, **how)
if files.get("checkpoint"):  # the table has ERM's head on ERM's features
    frame = frame[frame["method"] != "erm"]
frame = frame.assign(dataset=snakemake.wildcards.dataset, run=run)
write_frame(snakemake.output[0], frame, {"checkpoint_sha256": inputs.checkpoint_sha256})
job.finish(f"Validation bias, {method_label(row)}", f"{(frame['method'] == row).sum()} subsamples")
