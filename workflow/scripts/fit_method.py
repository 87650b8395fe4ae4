"""Fit the heads of one method on embeddings, by the contract of hsfm/methods; all seeds."""

import json
from importlib import import_module

import pandas as pd
import pyarrow as pa

from hsfm.core import job
from hsfm.core.device import choose_device
from hsfm.core.files import sha256, write_frame, write_parquet
from hsfm.evaluation.groups import count_groups
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.fit import Fit, NotApplicable
from hsfm.heads.head import Head, read_erm_features, stack, write_heads
from hsfm.heads.supervision import fit_supervised

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, outputs, params = snakemake.input, snakemake.output, snakemake.params
method = import_module(f"hsfm.methods.{params.module}")
settings = method.Settings(**params.settings)
splits, found = {split: files[split] for split in ("train", "val")}, {}
if files.get("checkpoint"):  # of a network of the method's own
    from hsfm.models.backbone import read_checkpoint
    from hsfm.models.holdout import hold_out

    trained = read_checkpoint(files.checkpoint)
    train, val = (read_embeddings(file, split=split) for split, file in splits.items())
    erm, origin = Head.of(trained.network.fc), sha256(files.checkpoint)
    found["holdout"] = json.loads(trained.metadata["settings"])["training"]["holdout"]
    train = train.take(hold_out(train.y, found["holdout"], int(snakemake.wildcards.run)))
else:
    saved, (train, val) = read_erm_features(files.heads, **splits)
    erm, origin = saved.head[0], saved.checkpoint_sha256
needs = {
    need: import_module(f"hsfm.heads.{need}").read_need(files[need], val, params[need])
    for need in getattr(method, "NEEDS", ())
}
place = choose_device(params.device)
train, val, erm = train.to(place), val.to(place), erm.to(place)
try:
    fit, group_labels = fit_supervised(method, train, val, erm, settings=settings, seeds=params.seeds, **needs)
    left_out = ""
except NotApplicable as error:  # the other rows stay, and the table says why this one is not there
    fit, group_labels, left_out = Fit(stack([erm])[:0], ()), "none", str(error)
tables = dict(fit.tables)
if "hard_rows" in fit.arrays:  # whose groups the method may not have seen
    tables["hard_groups"] = count_groups(fit.arrays["hard_rows"], fit.seeds, val)
for name in getattr(method, "TABLES", ()):
    table = tables.get(name, pd.DataFrame()) if left_out else tables[name]
    write = write_parquet if isinstance(table, pa.Table) else write_frame
    write(outputs[name], table, {})
saved = fit.saved(
    method=params.row,
    class_names=val.class_names,
    checkpoint_sha256=origin,
    group_labels=group_labels,
    settings={**params.settings, **found, **fit.settings},
    left_out=left_out,
)
write_heads(outputs.heads, saved)
job.finish(method.LABEL, f"left out: {left_out}" if left_out else fit.summary)
