"""Tables and figures of a plan: their files, what figures are drawn from, and their places in Snakemake's report."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from snakemake.io import expand, report

from hsfm.report import contents
from hsfm_workflow import ROOT, extras
from hsfm_workflow.plan import IMAGES, OF_DATASET, OF_RUN, Plan

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
        **dict.fromkeys(["sweep_hsfm", "gather_sweep", "ablate_hsfm"], "hsfm"),
    },
    "prefixes": {"score_": "score_heads", "gather_heads_": "gather_heads", "export_": "export_model"},
    "after_heads": [
        *("gather_heads", "score_heads", "export_model", "measure_edits", "decode_edits"),
        *("sweep_hsfm", "gather_sweep", "ablate_hsfm", "bias_validation"),
    ],
    "of_results": ["draw_", "write_card", "export_model", "decode_edits"],
}
DRAWN = ("examples", "training", "hard_set")  # figures that are drawn from tables and one image table alone
STUDIES = ("sweep", "ablations", "validation_bias")
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
    return ROOT / "workflow" / "report" / kind / f"{name}.rst"


def reported(files: list[str] | dict[str, str]) -> list | dict:
    """Outputs of a rule whose HTML tables and PNG figures `snakemake --report` shows."""
    if isinstance(files, dict):
        return {name: _reported(file) for name, file in files.items()}
    return [_reported(file) for file in files]


def _reported(file: str) -> object:
    kind, *dataset, name = Path(file).with_suffix("").parts[1:]
    if not file.endswith({"tables": ".html", "figures": ".png"}[kind]):
        return file
    shown = f"{contents.title(kind, name)} ({kind.removesuffix('s')})"
    return report(
        file,
        caption=str(caption(file)),
        category=contents.topic(kind, name),
        subcategory="{dataset}" if dataset else "all datasets",
        labels=lambda wildcards: {"result": shown, **({"dataset": wildcards.dataset} if dataset else {})},
    )


class Results:
    """Tables, figures and page of a plan."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.main = table_files(
            *("main", "metrics", "groups", "uncertainty"), *(["published"] if plan.published else [])
        )
        self.of_jobs = table_files("costs", "stages", "settings", "versions")
        self.of_edits = table_files("edits") if plan.with_edits else []
        self.tables = [*self.main, *self.of_jobs, *table_files(*plan.studies), *self.of_edits]
        self.figures = [
            file
            for dataset in plan.datasets
            for name in self.figures_of(dataset)
            for file in figure_files(name, dataset)
        ]
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
        plan, methods = self.plan, self.plan.methods_of(dataset)
        given = dataset in plan.given
        asked = {
            "groups": True,
            "tradeoff": True,
            "time": True,
            "examples": not given,
            "training": dataset in plan.trained or plan.with_history(dataset),
            "hard_set": "hsfm" in plan.methods,
            "method": "hsfm" in plan.methods,
            "masks": "dac" in plan.methods,
            "generated": "ddb" in methods,
            "edits": dataset in plan.with_edits,
            "edit_cosines": dataset in plan.with_edits,
            "edit_neighbors": dataset in plan.with_edits and not given,
            "unclip": dataset in plan.with_unclip and not extras.MISSING_FOR_UNCLIP,
        }
        return [name for name, wanted in asked.items() if wanted] + [s for s in plan.studies if s in STUDY_FIGURES]

    # Inputs of figures

    @property
    def drawn(self) -> dict[str, tuple[str, Callable]]:
        """Script and inputs of the figures that one rule each draws, without further settings."""
        figures = {name: ("draw_figure", getattr(self, f"of_{name}")) for name in DRAWN}
        return figures | {name: ("draw_study", partial(self.of_study, name)) for name in STUDY_FIGURES}

    def of_study(self, study: str, wildcards: object) -> dict:
        of_run = OF_RUN.replace("{dataset}", wildcards.dataset)
        return {"results": expand(f"{of_run}/studies/{study}.parquet", run=self.plan.runs)}

    def of_examples(self, wildcards: object) -> dict:
        return {"images": IMAGES.format(dataset=wildcards.dataset), "pixels": self.plan.pixels(wildcards)}

    def of_training(self, wildcards: object) -> dict:
        """Histories of all runs, and of all seeds where each has one; the scores of ERM."""
        plan, dataset = self.plan, wildcards.dataset
        of_run = OF_RUN.replace("{dataset}", dataset)
        trained = {"erm": f"{of_run}/erm/history.parquet"} if dataset in plan.trained else {}
        trained |= {row: f"{of_run}/{row}/{self._history(row)}" for row in plan.with_history(dataset)}
        scores = expand(f"{of_run}/erm/scores.parquet", run=plan.runs)
        of_rows = {row: expand(path, run=plan.runs, seed=plan.seeds) for row, path in trained.items()}
        return {"scores": scores, **of_rows}

    def _history(self, row: str) -> str:
        """A method that reads images has a history per seed."""
        return "seed{seed}/history.parquet" if self.plan.method(row).images else "history.parquet"

    def of_hard_set(self, wildcards: object) -> dict:
        of_run, runs = OF_RUN.replace("{dataset}", wildcards.dataset), self.plan.runs
        return {
            "scores": expand(f"{of_run}/erm/scores.parquet", run=runs),
            "hard_groups": expand(f"{of_run}/hsfm/hard_groups.parquet", run=runs),
        }

    def of_method(self, wildcards: object) -> dict:
        """Inputs of the figure of HSFM's method: the first run, and images where there are some."""
        dataset = OF_DATASET.format(dataset=wildcards.dataset)
        erm, hsfm = (f"{dataset}/run{self.plan.runs[0]}/{method}" for method in ("erm", "hsfm"))
        images = {} if wildcards.dataset in self.plan.given else self.of_examples(wildcards)
        return {
            **{name: f"{hsfm}/{name}.parquet" for name in ("support", "history", "hard_groups")},
            "heads": f"{hsfm}/heads.safetensors",
            "erm": f"{erm}/heads.safetensors",
            "hard_set": f"{erm}/hard_set.parquet",
            **{split: f"{erm}/embeddings/{split}.parquet" for split in ("train", "val")},
            **images,
        }
