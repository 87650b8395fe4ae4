"""Tables and figures of a plan: their files, what figures are drawn from, and their places in Snakemake's report."""

import os
from pathlib import Path

from snakemake.io import expand, report

from hsfm.report import contents
from hsfm_workflow import ROOT, extras
from hsfm_workflow.plan import OF_RUN, Plan

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
        **{"select_": "select_heads", "bias_": "bias_validation"},
        **{"gather_heads_": "gather_heads", "export_": "export_model"},
    },
    "after_heads": [
        *("gather_heads", "score_heads", "export_model", "measure_edits", "decode_edits"),
        *("sweep_hsfm", "ablate_hsfm", "bias_validation", "select_heads"),
    ],
    "of_results": ["draw_", "describe_images", "export_model", "decode_edits"],
}
STUDY_FIGURES = ("sweep", "validation_bias")
OF_SCORES = ("groups", "tradeoff", "training", "hard_set")  # drawn without images and features
OF_FEATURES = ("found_groups", "found_images", "masks", "generated", "method", "edits", "edit_neighbors", "unclip")


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
        edits = ["edits"] if plan.with_edits else []
        of_jobs = ["costs", "stages", "versions"]
        self.of_all = table_files("main", "metrics", "groups", "uncertainty", *published, *edits, *of_jobs)
        self.tables = [*self.of_all, *table_files(*plan.studies)]
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
            **{"found_groups": bool(plan.finders(dataset)), "found_images": bool(plan.finders(dataset)) and not given},
            **{"masks": "dac" in methods, "generated": "ddb" in methods},
            **{"edits": edited, "edit_neighbors": edited and not given},
            "unclip": dataset in plan.with_unclip and not extras.MISSING,
        }
        return [name for name, wanted in asked.items() if wanted] + [s for s in plan.studies if s in STUDY_FIGURES]

    def drawn(self, dataset: str, of: tuple[str, ...]) -> dict[str, list[str]]:
        """The files of those of some figures that a dataset has, by name."""
        return {name: figure_files(name) for name in self.figures_of(dataset) if name in of}

    def drawn_from(self, wildcards: object) -> dict[str, object]:
        """Inputs of OF_SCORES: scores, histories by row, what HSFM's hard set holds."""
        plan, dataset = self.plan, wildcards.dataset
        histories = {row: self._histories(row, dataset) for row in ("erm", *plan.with_history(dataset))}
        hard_groups = {"hard_groups": self._of_runs("hsfm/hard_groups")} if "hsfm" in plan.methods_of(dataset) else {}
        return {"scores": plan.scores_of_methods(wildcards), **histories, **hard_groups}

    def pictured_from(self, wildcards: object) -> dict[str, object]:
        """Inputs of OF_FEATURES, of the first run."""
        plan, dataset, of_first = self.plan, wildcards.dataset, self._of_first_run
        figures, files = self.figures_of(dataset), {}
        if dataset not in plan.given:
            files |= {
                name: files_of(wildcards) if callable(files_of) else files_of for name, files_of in plan.images.items()
            }
        if {"masks", "method", "edits"} & {*figures}:
            files |= {split: of_first(f"erm/embeddings/{split}.parquet") for split in ("train", "val")}
            files["erm"] = of_first("erm/heads.safetensors")
        if "masks" in figures:
            files |= {"checkpoint": of_first("erm/backbone.safetensors")}
            files |= {"standardization": of_first("erm/standardization.safetensors")}
            files |= {"masks": plan.masks_for("masks", "source", run=plan.runs[0])(wildcards)}
        if "method" in figures:
            files |= {name: of_first(f"hsfm/{name}.parquet") for name in ("history", "hard_groups")}
            files |= {"heads": of_first("hsfm/heads.safetensors"), "hard_set": of_first("erm/hard_set.parquet")}
        if {"method", "edits"} & {*figures}:
            files["support"] = of_first("hsfm/support.parquet")
        if "edits" in figures:
            files["edits"] = of_first("hsfm/edits.parquet")
        if "generated" in figures:
            files |= {name: of_first(f"ddb/{name}.parquet") for name in ("generated", "pruned")}
        if "found_groups" in figures:
            files["found"] = of_first(f"{plan.finders(dataset)[0]}/groups_found.parquet")
        if "unclip" in figures:
            files["decoded"] = of_first("hsfm/decoded.parquet")
        return files

    def _of_first_run(self, file: str) -> str:
        return f"{OF_RUN}/{file}".replace("{run}", str(self.plan.runs[0]))

    def _of_runs(self, file: str) -> list[str]:
        return expand(f"{OF_RUN}/{file}.parquet", run=self.plan.runs, allow_missing=True)

    def _histories(self, row: str, dataset: str) -> list[str]:
        """Of a row of a dataset, none where it was not trained; a method that reads images has one per seed."""
        plan = self.plan
        if row == "erm" and dataset not in plan.trained:
            return []
        each = "seed{seed}/" if row != "erm" and plan.method(row).images else ""
        path = f"{OF_RUN}/{row}/{each}history.parquet"
        return expand(path, dataset=dataset, run=plan.runs, seed=plan.seeds)
