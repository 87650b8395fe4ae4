"""Draw HSFM as four connected panels out of the first seed of the first run."""

from hsfm.analysis.method_panels import hardest_pictures, held_by, inner_loops, support_panel
from hsfm.core import job
from hsfm.core.files import read_frame
from hsfm.data.open_images import open_pictures
from hsfm.features.embeddings import read_embeddings
from hsfm.heads.hard_set import read_need
from hsfm.heads.head import read_heads
from hsfm.methods.hsfm.outer_loop import Settings, symbols
from hsfm.methods.hsfm.support import read_support
from hsfm.report.figures import save
from hsfm.report.histories import HARD_GROUPS
from hsfm.report.method_figure import HISTORY, MethodData, draw_method

job.start(snakemake.log[0])
inputs, dataset, run = snakemake.input, snakemake.wildcards.dataset, snakemake.params.run
train, val = (read_embeddings(inputs[split], split=split) for split in ("train", "val"))
erm, saved = read_heads(inputs.erm).head[0], read_heads(inputs.heads)
seed, settings = saved.seeds[0], saved.settings
history, counts = (
    frame[frame["seed"] == seed].reset_index(drop=True)
    for frame in (read_frame(inputs.history, HISTORY), read_frame(inputs.hard_groups, HARD_GROUPS))
)
kept = int(history.loc[history["kept"], "epoch"].iloc[0])
support = read_support(inputs.support).of(seed)
first = read_need(inputs.hard_set, val, {"hard_per_class": settings["hard_per_class"]})
pictures = open_pictures(inputs.images, inputs.cache)
figure = draw_method(
    MethodData(
        title=f"{dataset}: HSFM, run {run}, seed {seed}; {len(history)} epochs, epoch {kept} is kept",
        settings=settings,
        symbols=symbols(Settings(**{name: settings[name] for name in Settings.model_fields})),
        **support_panel(support, train, val, pictures),
        loops=inner_loops(erm, saved.head[0], support, val, first.chosen, kept, settings),
        hardest=hardest_pictures(first, val, pictures) if settings["outer_set"] == "hard" else [],
        held=held_by(counts, val, kept),
        history=history,
    )
)
save(figure, *snakemake.output)
job.finish("Figure", snakemake.output[0])
