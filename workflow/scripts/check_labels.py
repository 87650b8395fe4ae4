"""Check that the labels of a dataset suffice for its methods and studies, and list the rows that are left out."""

import logging
from importlib import import_module

import pandas as pd

from hsfm.core import job
from hsfm.core.files import write_atomically
from hsfm.heads.requirements import Requirement, check_holdout, check_labels, check_numbers, read_labels

job.start(snakemake.log[0])
log, asked, source = logging.getLogger(job.__name__), snakemake.params.asked, snakemake.params.source
splits = read_labels(snakemake.input, ["early_logits"] if asked["early_logits"] else [])
rows = {row: Requirement(**{**of, "extra": tuple(of["extra"])}) for row, of in asked["rows"].items()}
try:
    check_numbers(splits["train"], asked["numbers"])
    reasons = check_labels(splits, rows)
    if asked["holdout"]:
        check_holdout(splits["train"], *asked["holdout"])
    if asked["agreement"]:
        import_module("hsfm.analysis.validation_bias").check_labels(*splits.values(), asked["agreement"])
except ValueError as error:
    raise ValueError(f"{source}: {error}") from error
for row, reason in reasons.items():
    log.warning("%s: %s is going to be left out: %s", source, row, reason)
names = [*splits["train"].class_names, *splits["train"].attribute_names]
if not "".join(names).isascii():
    from hsfm.report.fonts import fallback, lacking  # matplotlib takes a second

    if needed := lacking(names):
        family, left = fallback(needed)
        if family:
            log.info("figures draw %s with %s", "".join(sorted({*needed} - {*left})), family)
        if left:
            advice = "figures show boxes for it; install one, such as Noto Sans CJK, and draw them anew"
            log.warning("%s: no installed font has %s: %s", source, left, advice)
table = pd.DataFrame({"method": list(reasons), "reason": list(reasons.values())})
with write_atomically(snakemake.output[0]) as temporary:
    table.to_csv(temporary, index=False)
job.finish("Labels", f"suffice for {len(rows) - len(reasons)} of {len(rows)} methods")
