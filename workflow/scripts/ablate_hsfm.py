"""Fit and score HSFM with one part at a time taken away."""

import pandas as pd

from hsfm.analysis.ablations import fit_variants
from hsfm.core import job
from hsfm.core.device import choose_device
from hsfm.core.text import on_test
from hsfm.evaluation.scores import SPLITS, score_splits, write_scores
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.head import read_heads
from hsfm.methods.hsfm import train as meta


def ablate_hsfm(inputs: dict, output: str, run: int, seeds: list[int], settings: dict, device: str) -> str:
    splits = {split: read_embeddings(inputs[split], split=split) for split in SPLITS}
    erm = read_heads(inputs["heads"])
    for name, split in splits.items():
        erm.check_fits(split, inputs[name])
    place = choose_device(device)
    results = fit_variants(
        splits["train"].to(place), splits["val"].to(place), erm.head[0].to(place), seeds=seeds, settings=settings
    )
    frames = []
    for name, result in results.items():
        frame = score_splits(result.head.to("cpu"), list(splits.values()), seeds=seeds)
        frame["remark"] = frame["seed"].map(dict(zip(seeds, result.remarks, strict=True)))
        frames.append(frame.assign(method=name))
    whole = pd.concat(frames, ignore_index=True).assign(
        run=run,
        group_labels="selection" if settings["select_by"] == "worst_group" else "none",
        chosen_by=meta.SELECT_BY[settings["select_by"]],
    )
    write_scores(output, whole, {"checkpoint_sha256": erm.checkpoint_sha256})
    return f"{len(results)} variants, HSFM itself {on_test(whole[whole['method'] == 'hsfm'])}"


job.start(snakemake.log[0], gpus=snakemake.resources.gpu, device=snakemake.params.device)
scored = ablate_hsfm(
    dict(snakemake.input.items()),
    snakemake.output[0],
    int(snakemake.wildcards.run),
    snakemake.params.seeds,
    {**snakemake.params.settings, **snakemake.params.hard_set},
    snakemake.params.device,
)
job.finish("Ablations", scored)
