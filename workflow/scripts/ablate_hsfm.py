"""Fit and score HSFM with one part at a time taken away."""

from hsfm.analysis.ablations import ablate
from hsfm.core import job
from hsfm.core.device import choose_device
from hsfm.core.text import on_test
from hsfm.data.table import SPLITS
from hsfm.evaluation.scores import write_scores
from hsfm.heads.head import read_erm_features
from hsfm.methods.hsfm import Settings

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, params = snakemake.input, snakemake.params
settings, hard_per_class = Settings(**params.settings), params.hard_set["hard_per_class"]
erm, splits = read_erm_features(files.heads, **{split: files[split] for split in SPLITS})
how = {"seeds": params.seeds, "hard_per_class": hard_per_class, "device": choose_device(params.device)}
scores = ablate(*splits, erm.head[0], settings, **how).assign(run=int(snakemake.wildcards.run))
write_scores(snakemake.output[0], scores, {"checkpoint_sha256": erm.checkpoint_sha256})
itself = on_test(scores[scores["method"] == "hsfm"])
job.finish("Ablations", f"{scores['method'].nunique()} variants, HSFM itself {itself}")
