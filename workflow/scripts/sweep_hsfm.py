"""Try one part of a sweep's settings on one backbone."""

from hsfm.analysis.sweep import SETTINGS, combinations, run_sweep, share_out, trials
from hsfm.core import job
from hsfm.core.device import choose_device
from hsfm.core.files import write_frame
from hsfm.evaluation.scores import SPLITS
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.head import read_heads


def sweep_hsfm(inputs: dict, output: str, part: int, settings: dict, device: str) -> str:
    splits = [read_embeddings(inputs[split], split=split) for split in SPLITS]
    erm = read_heads(inputs["heads"])
    for split in splits:
        erm.check_fits(split, inputs[split.split])
    sweep, base = settings["sweep"], {**settings["hsfm"], **settings["hard_set"]}
    fixed = {name: value for name, value in base.items() if name not in (*SETTINGS, "select_by")}
    combined = combinations(base, sweep["values"], draws=sweep["draws"], seed=sweep["seed"])
    groups = trials(combined, seeds=sweep["seeds"], fixed=fixed)
    place = choose_device(device)
    grouped = all(bool((split.attribute >= 0).all()) for split in splits[1:])
    frame = run_sweep(
        *(split.to(place) for split in splits),
        erm.head[0].to(place),
        share_out(groups, sweep["parts"])[part],
        select_by=["worst_group", "worst_class"] if grouped else ["worst_class"],
    )
    write_frame(output, frame, {"checkpoint_sha256": erm.checkpoint_sha256})
    return f"part {part}, {frame['setting'].nunique()} settings, {len(frame)} rows"


job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
tried = sweep_hsfm(
    dict(snakemake.input.items()),
    snakemake.output[0],
    int(snakemake.wildcards.part),
    snakemake.params.settings,
    snakemake.params.device,
)
job.finish("Sweep", tried)
