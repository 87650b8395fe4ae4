"""Try one part of a sweep's settings on one backbone."""

from hsfm.analysis.sweep import SweepSettings, plan_sweep, share_out, sweep_settings
from hsfm.core import job
from hsfm.core.device import choose_device
from hsfm.core.files import write_frame
from hsfm.data.table import SPLITS
from hsfm.heads.head import read_erm_features
from hsfm.methods.hsfm import Settings

job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
files, settings, part = snakemake.input, snakemake.params.settings, int(snakemake.wildcards.part)
sweep, hsfm = SweepSettings(**settings["sweep"]), Settings(**settings["hsfm"])
erm, splits = read_erm_features(files.heads, **{split: files[split] for split in SPLITS})
trials = plan_sweep(hsfm, settings["hard_set"]["hard_per_class"], sweep)
groups = share_out(trials, sweep.parts)[part]
place = choose_device(snakemake.params.device)
frame = sweep_settings(*(split.to(place) for split in splits), erm.head[0].to(place), groups)
frame = frame.assign(dataset=snakemake.wildcards.dataset, run=int(snakemake.wildcards.run))
write_frame(snakemake.output[0], frame, {"checkpoint_sha256": erm.checkpoint_sha256})
job.finish("Sweep", f"part {part}, {frame['setting'].nunique()} settings, {len(frame)} rows")
