"""Fit the heads of one method on embeddings, by the contract of hsfm/methods; all seeds."""

from importlib import import_module

import pandas as pd
import pyarrow as pa

from hsfm.core import job
from hsfm.core.device import choose_device
from hsfm.core.files import write_frame, write_parquet
from hsfm.evaluation.found_groups import compare_found
from hsfm.evaluation.groups import count_groups
from hsfm.heads.fit_inputs import read_fit_inputs
from hsfm.heads.head import write_heads
from hsfm.heads.supervision import fit_row

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, outputs, params = snakemake.input, snakemake.output, snakemake.params
method = import_module(f"hsfm.methods.{params.module}")
settings = method.Settings(**params.settings)
needs = {need: params[need] for need in getattr(method, "NEEDS", ())}
inputs = read_fit_inputs(files, needs, int(snakemake.wildcards.run))
how = {"row": params.row, "settings": settings, "seeds": params.seeds}
fit, saved = fit_row(method, inputs, **how, device=choose_device(params.device))
tables = dict(fit.tables)
if "hard_rows" in fit.arrays:  # whose groups the method may not have seen
    tables["hard_groups"] = count_groups(fit.arrays["hard_rows"], fit.seeds, inputs.val)
if "groups_found" in tables:
    tables["groups_found"] = compare_found(tables["groups_found"], inputs.train, inputs.val)
for name in getattr(method, "TABLES", ()):
    table = tables.get(name, pd.DataFrame()) if saved.left_out else tables[name]
    write = write_parquet if isinstance(table, pa.Table) else write_frame
    write(outputs[name], table, getattr(table, "attrs", {}))
write_heads(outputs.heads, saved)
job.finish(method.LABEL, f"left out: {saved.left_out}" if saved.left_out else fit.summary)
