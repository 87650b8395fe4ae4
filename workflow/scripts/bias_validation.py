"""Fit the methods on validation splits of more and more bias."""

from hsfm.analysis.validation_bias import run_validation_bias
from hsfm.core import job
from hsfm.core.files import write_frame
from hsfm.evaluation.scores import SPLITS
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.head import read_heads


def bias_validation(inputs: dict, output: str, dataset: str, run: int, settings: dict) -> str:
    splits = [read_embeddings(inputs[split], split=split) for split in SPLITS]
    erm = read_heads(inputs["heads"])
    for split in splits:
        erm.check_fits(split, inputs[split.split])
    of_methods = {
        "hsfm": {**settings["hsfm"], **settings["hard_set"]},
        "dfr": settings["dfr"],
        "llr": settings["llr"],
    }
    frame = run_validation_bias(*splits, erm.head[0], **settings["validation_bias"], settings=of_methods)
    write_frame(output, frame.assign(dataset=dataset, run=run), {"checkpoint_sha256": erm.checkpoint_sha256})
    return f"{frame['method'].nunique()} methods on {len(frame) // frame['method'].nunique()} subsamples"


job.start(snakemake.log[0])
fitted = bias_validation(
    dict(snakemake.input.items()),
    snakemake.output[0],
    snakemake.wildcards.dataset,
    int(snakemake.wildcards.run),
    snakemake.params.settings,
)
job.finish("Validation bias", fitted)
