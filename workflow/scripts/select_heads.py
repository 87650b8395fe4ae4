"""Fit and score one row of the tables under every rule by which validation selects."""

from importlib import import_module

import pandas as pd

from hsfm.analysis.selection import select_heads
from hsfm.core import job
from hsfm.core.device import choose_device
from hsfm.core.text import on_test
from hsfm.evaluation.scores import BY_RULE, write_scores
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.fit import NotApplicable
from hsfm.heads.fit_inputs import read_fit_inputs
from hsfm.report.names import method_label

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, params, row = snakemake.input, snakemake.params, snakemake.wildcards.method
run, dataset = int(snakemake.wildcards.run), snakemake.wildcards.dataset
method = import_module(f"hsfm.methods.{params.module}")
inputs, test = read_fit_inputs(files, params.needs, run), read_embeddings(files.test, split="test")
settings, device = method.Settings(**params.settings), choose_device(params.device)
metadata = {"checkpoint_sha256": inputs.checkpoint_sha256}
try:
    how = {"row": row, "settings": settings, "seeds": params.seeds, "run": run, "device": device}
    scores = select_heads(method, inputs, test, **how)
    said = f"{scores['rule'].nunique()} rules; by worst class {on_test(scores[scores['rule'] == 'worst_class'])}"
except NotApplicable as error:
    scores, said = pd.DataFrame(columns=BY_RULE.names), f"left out: {error}"
    metadata["left_out"] = {"dataset": dataset, "method": row, "reason": str(error)}
write_scores(snakemake.output[0], scores, metadata, BY_RULE)
job.finish(f"Selection, {method_label(row)}", said)
