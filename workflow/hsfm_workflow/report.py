"""Tables and figures of a plan: their files, what figures are drawn from, and their places in Snakemake's report."""

import os
from functools import partial
from pathlib import Path

from snakemake.io import expand, report

from hsfm.report import contents
from hsfm_workflow import ROOT, extras
from hsfm_workflow.plan import IMAGES, OF_RUN, Plan

STYLE = "hsfm/report/hsfm.mplstyle"  # of all figures
PAGE = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("hsfm/report/templates/*"))  # what the page is made of
SAVED_CONFIG = "results/config.yaml"
SUFFIXES = {"tables": ("csv", "md", "tex", "html"), "figures": ("png", "pdf")}
# Of jobs, by the names of their logs, for `hsfm.report.costs.Stages`.
STAGES = {
    "of_method": {
        **dict.fromkeys(["train_erm", "take_backbone", "import_embeddings", "read_erm_head", "fit_erm_head"], "erm"),
        "train_on_share": "afr",
        **dict.fromkeys(["make_masks", "gather_masks", "take_masks"], "dac"),
        **dict.fromkeys(["choose_sources", "learn_token", "segment_objects", "take_objects", "inpaint_objects"], "ddb"),
        **dict.fromkeys(["paste_objects", "gather_generated", "prune_generated"], "ddb"),
        **dict.fromkeys(["build_hard_set", "measure_edits", "decode_edits"], "hsfm"),
        **dict.fromkeys(["sweep_hsfm", "ablate_hsfm"], "hsfm"),
    },
    "prefixes": {
        **{"score_": "score_heads", "select_": "select_heads"},
        **{"gather_heads_": "gather_heads", "export_": "export_model"},
    },
    "after_heads": [
        *("gather_heads", "score_heads", "export_model", "measure_edits", "decode_edits"),
        *("sweep_hsfm", "ablate_hsfm", "bias_validation", "select_heads"),
    ],
    "of_results": ["draw_", "write_card", "export_model", "decode_edits"],
}
STUDY_FIGURES = ("sweep", "validation_bias")


def table_files(*names: str) -> list[str]:
    """Tables by name: numbers, and text for readers."""
    return expand("results/tables/{table}.{suffix}", table=names, suffix=SUFFIXES["tables"])


def figure_files(figure: str, dataset: str = "{dataset}") -> list[str]:
    """A figure of a dataset: a picture for the screen, a drawing for print."""
    return [f"results/figures/{dataset}/{figure}.{suffix}" for suffix in SUFFIXES["figures"]]


def caption(file: str) -> Path:
    """The caption of a table or a figure."""
    kind, *_, name = Path(file).with_suffix("").parts[1:]
    return contents.caption(kind, name)


def reported(files: list[str]) -> list:
    """Outputs of a rule whose HTML tables and PNG figures `snakemake --report` shows."""
    return [_reported(file) for file in files]


def _reported(file: str) -> object:
    kind, *dataset, name = Path(file).with_suffix("").parts[1:]
    if not file.endswith({"tables": ".html", "figures": ".png"}[kind]):
        return file
    _, topic, title = contents.place(kind, name)
    shown = f"{title} ({kind.removesuffix('s')})"
    return report(
        file,
        caption=str(caption(file)),
        category=topic,
        subcategory="{dataset}" if dataset else "all datasets",
        labels=lambda wildcards: {"result": shown, **({"dataset": wildcards.dataset} if dataset else {})},
    )


class Results:
    """Tables, figures and page of a plan."""

    def __init__(self, plan: Plan):
        self.plan = plan
        published = ["published"] if plan.published else []
        self.main = table_files("main", "metrics", "groups", "uncertainty", *published)
        self.of_jobs = table_files("costs", "stages", "versions")
        others = [*plan.studies, *(["edits"] if plan.with_edits else [])]
        self.tables = [*self.main, *self.of_jobs, *table_files(*others)]
        self.figures = [file for d in plan.datasets for name in self.figures_of(d) for file in figure_files(name, d)]
        self.page = "results/report.html"
        self.on_page = {
            "tables": [file for file in self.tables if file.endswith(".html")],
            "figures": [file for file in self.figures if file.endswith(".png")],
        }
        captions = dict.fromkeys(caption(file) for files in self.on_page.values() for file in files)
        self.captions = [os.path.relpath(path) for path in captions]
        self.caption_files = [str(path.relative_to(ROOT)) for path in captions]
        self.everything = [*self.tables, *self.figures, self.page, SAVED_CONFIG]

    def figures_of(self, dataset: str) -> list[str]:
        """The names of a dataset's figures."""
        plan, methods, given = self.plan, self.plan.methods_of(dataset), dataset in self.plan.given
        edited = dataset in plan.with_edits
        asked = {
            **dict.fromkeys(["groups", "tradeoff"], True),
            "examples": not given,
            "training": dataset in plan.trained or plan.with_history(dataset),
            "hard_set": "hsfm" in methods,
            "method": "hsfm" in methods and not given,
            **{"masks": "dac" in methods, "generated": "ddb" in methods},
            **{"edits": edited, "edit_neighbors": edited and not given},
            "unclip": dataset in plan.with_unclip and not extras.MISSING,
        }
        return [name for name, wanted in asked.items() if wanted] + [s for s in plan.studies if s in STUDY_FIGURES]

    @property
    def tabulated(self) -> dict[str, tuple[str, list[str]]]:
        """Script and inputs of the tables that one rule each makes."""
        plan = self.plan
        studies = {study: ("tabulate_study", plan.of_study(study, *plan.datasets)) for study in plan.studies}
        return {**studies, "edits": ("tabulate_edits", plan.edits)}

    @property
    def drawn(self) -> dict[str, tuple[str, dict, dict]]:
        """Script, inputs and params of the figures that one rule each draws."""
        plan, of_first = self.plan, self._of_first_run
        shown = {"transform": plan.section("transform"), "shown": plan.sections("invert", "quantile", of="dac")}
        masks = {
            **{name: of_first(f"erm/{name}.safetensors") for name in ("heads", "standardization")},
            **{"checkpoint": of_first("erm/backbone.safetensors"), "train": of_first("erm/embeddings/train.parquet")},
            "masks": plan.masks_for("masks", "source", run=plan.runs[0]),
        }
        generated = {name: of_first(f"ddb/{name}.parquet") for name in ("generated", "pruned")}
        decoded = {"decoded": of_first("hsfm/decoded.parquet")}
        method = {
            **{name: of_first(f"hsfm/{name}.parquet") for name in ("support", "history", "hard_groups")},
            **{"heads": of_first("hsfm/heads.safetensors"), "erm": of_first("erm/heads.safetensors")},
            "hard_set": of_first("erm/hard_set.parquet"),
            **{split: of_first(f"erm/embeddings/{split}.parquet") for split in ("train", "val")},
            **plan.images,
        }
        scores = {"scores": self._of_runs("erm/scores")}
        with_history = [row for row in plan.methods if row != "erm" and "history" in plan.method(row).tables]
        histories = {row: partial(self._histories, row) for row in ("erm", *with_history)}
        studies = {study: (lambda w, study=study: plan.of_study(study, w.dataset)) for study in STUDY_FIGURES}
        return {
            "examples": ("draw_figure", {"images": IMAGES, "pixels": plan.pixels}, {}),
            "training": ("draw_figure", {**scores, **histories}, {}),
            "hard_set": ("draw_figure", {**scores, "hard_groups": self._of_runs("hsfm/hard_groups")}, {}),
            **{study: ("draw_study", {"results": files}, {}) for study, files in studies.items()},
            "masks": ("draw_masks", {**masks, **plan.images}, shown),
            "generated": ("draw_generated", {**generated, **plan.images}, {}),
            "unclip": ("draw_unclip", {**decoded, **plan.images}, {}),
            "method": ("draw_method", method, {"run": plan.runs[0]}),
        }

    def _of_first_run(self, file: str) -> str:
        return f"{OF_RUN}/{file}".replace("{run}", str(self.plan.runs[0]))

    def _of_runs(self, file: str) -> list[str]:
        return expand(f"{OF_RUN}/{file}.parquet", run=self.plan.runs, allow_missing=True)

    def _histories(self, row: str, wildcards: object) -> list[str]:
        """Of a row of a dataset, none where it was not trained; a method that reads images has one per seed."""
        plan, dataset = self.plan, wildcards.dataset
        if dataset not in plan.trained if row == "erm" else row not in plan.with_history(dataset):
            return []
        each = "seed{seed}/" if row != "erm" and plan.method(row).images else ""
        path = f"{OF_RUN}/{row}/{each}history.parquet"
        return expand(path, dataset=dataset, run=plan.runs, seed=plan.seeds)
