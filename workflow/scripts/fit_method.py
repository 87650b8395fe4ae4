"""Fit the heads of one method on embeddings, by the contract of hsfm/methods; all seeds."""

from importlib import import_module

import pandas as pd
import pyarrow as pa

from hsfm.core import job
from hsfm.core.device import choose_device
from hsfm.core.files import write_frame, write_parquet
from hsfm.evaluation.found_groups import compare_found
from hsfm.evaluation.groups import count_groups
from hsfm.heads.fit import Fit, NotApplicable
from hsfm.heads.fit_inputs import read_fit_inputs
from hsfm.heads.head import stack, write_heads
from hsfm.heads.supervision import fit_supervised

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, outputs, params = snakemake.input, snakemake.output, snakemake.params
method = import_module(f"hsfm.methods.{params.module}")
settings = method.Settings(**params.settings)
needs = {need: params[need] for need in getattr(method, "NEEDS", ())}
inputs = read_fit_inputs(files, needs, int(snakemake.wildcards.run))
place = choose_device(params.device)
train, val, erm = (part.to(place) for part in (inputs.train, inputs.val, inputs.erm))
try:
    fit, group_labels = fit_supervised(method, train, val, erm, settings=settings, seeds=params.seeds, **inputs.needs)
    left_out = ""
except NotApplicable as error:  # the other rows stay, and the table says why this one is not there
    fit, group_labels, left_out = Fit(stack([erm])[:0], ()), "none", str(error)
tables = dict(fit.tables)
if "hard_rows" in fit.arrays:  # whose groups the method may not have seen
    tables["hard_groups"] = count_groups(fit.arrays["hard_rows"], fit.seeds, val)
if "groups_found" in tables:
    tables["groups_found"] = compare_found(tables["groups_found"], train, val)
for name in getattr(method, "TABLES", ()):
    table = tables.get(name, pd.DataFrame()) if left_out else tables[name]
    write = write_parquet if isinstance(table, pa.Table) else write_frame
    write(outputs[name], table, getattr(table, "attrs", {}))
saved = fit.saved(
    method=params.row,
    class_names=val.class_names,
    checkpoint_sha256=inputs.checkpoint_sha256,
    group_labels=group_labels,
    settings={**params.settings, **inputs.training, **fit.settings},
    left_out=left_out,
)
write_heads(outputs.heads, saved)
job.finish(method.LABEL, f"left out: {left_out}" if left_out else fit.summary)
