"""Methods on validation splits of growing bias, on embeddings of your own: a table and a figure per set.

    python -m benchmarks.validation_bias FOLDER/dominoes_frozen results/minibirds/run0/erm [--draws 10] [--out FOLDER]
    python -m benchmarks.validation_bias FOLDER/mine --methods llr idfr dfr --agreement 0.5 0.9 0.98

A set is either {NAME}_train.npz, _val.npz and _test.npz with x, y and attribute, whose ERM head is fitted here, or a
network's folder that the workflow made; several of one dataset are its backbone runs. Attributes are hidden from
methods that train without them, and none chooses by them; DFR, the reference, is given all of them on validation.
"""

import argparse
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pandas as pd

from hsfm.analysis.validation_bias import ValidationBiasSettings, measure_validation_bias
from hsfm.core.files import write_frame
from hsfm.core.text_tables import percent, signed
from hsfm.deploy.estimators import AUTO_LR, MOST_LR
from hsfm.features.embeddings import Embeddings
from hsfm.features.imported import import_embeddings
from hsfm.features.standardize import fit as standardization
from hsfm.heads.erm_head import fit_head
from hsfm.heads.hard_set import HardSetSettings
from hsfm.heads.head import Head, read_erm_features
from hsfm.report.names import method_label
from hsfm.report.study_figures import draw_study
from hsfm.report.study_tables import summarize_bias

SPLITS = ("train", "val", "test")
BY_CLASS = {"select_by": "worst_class"}
INFERRED = {"select_by": "inferred_group"}
ROWS = {  # by name: the method, and its settings where they are not the defaults
    "class_scaling": ("class_scaling", BY_CLASS),
    "llr": ("llr", {}),
    "cb_llr": ("cb_llr", {}),
    "jtt": ("jtt", BY_CLASS),
    "jtt, inferred": ("jtt", INFERRED),
    "evals": ("evals", BY_CLASS),
    "afr_val": ("afr", {"on": "val", **BY_CLASS}),
    "tune": ("tune", BY_CLASS),
    "hsfm": ("hsfm", BY_CLASS),
    "hsfm, inferred": ("hsfm", {"outer_set": "inferred", **INFERRED}),
    "idfr": ("idfr", {}),
    "dfr": ("dfr", {}),
}
LABELS = {  # of rows that are no method by its defaults
    "jtt, inferred": "JTT by inferred groups",
    "hsfm, inferred": "HSFM by inferred groups",
    "afr_val": "AFR on validation",
}


def read_set(name: str) -> tuple[list[Embeddings], Head]:
    """Train, val and test, and ERM's head."""
    if Path(name).is_dir():
        files = {split: f"{name}/embeddings/{split}.parquet" for split in SPLITS}
        saved, splits = read_erm_features(f"{name}/heads.safetensors", **files)
        return splits, saved.head[0]
    imported = import_embeddings({split: f"{name}_{split}.npz" for split in SPLITS}, Path(name).name)
    scaled = standardization(imported["train"].features, scale=0.5)  # as config/frozen.yaml has it
    splits = [replace(part, features=scaled.apply(part.features)) for part in imported.values()]
    return splits, fit_head(splits[0])[0]


def chosen_rows(names: list[str], d: int, tuned: bool) -> dict:
    """Methods and settings by row.

    d: features. tuned: whether HSFM and Tune choose their settings; else their step size goes by d, as that of the
    classifiers, and all others are fixed.
    """
    rows = {}
    for name in names:
        method, given = ROWS[name]
        module = import_module(f"hsfm.methods.{method}")
        if method in ("hsfm", "tune") and not tuned:
            given = {"inner_lr": min(AUTO_LR / d, MOST_LR), **given}
        rows[name] = module, module.Settings(**given)
    return rows


def shown(summary: pd.DataFrame) -> str:
    """Worst group of test by method and agreement, in brackets its difference to DFR's, and IDFR's branches."""
    shares = sorted(summary["agreement"].unique())
    cells = ["Method", "draws", *(f"{100 * share:g} %" for share in shares)]
    lines = [f"| {' | '.join(cells)} |", f"| --- |{' ---: |' * (len(cells) - 1)}"]
    for method, part in summary.groupby("method", sort=False):
        found = part.set_index("agreement").reindex(shares)
        worst, over = (
            [show(*pair) for pair in zip(found.get(f"{name}_percent", []), found.get(f"{name}_error", []), strict=True)]
            for name, show in {"test_worst_group": percent, "over_dfr": signed}.items()
        )
        if method != "dfr":
            worst = [f"{one} ({other})" for one, other in zip(worst, over, strict=True)] if over else worst
        drawn = "" if method == "erm" else str(part["draws"].max())
        lines.append(f"| {' | '.join([method_label(method), drawn, *worst])} |")
    took = summary[summary["branches"] != ""]
    branches = "; ".join(f"{row.branches} at {100 * row.agreement:g} %" for row in took.itertuples())
    return "\n".join([*lines, "", f"IDFR's branch by draws: {branches}."] if branches else lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = ValidationBiasSettings()
    parser.add_argument("sets", nargs="+", help="files' paths up to _train.npz, or a network's folder")
    parser.add_argument("--methods", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--agreement", nargs="+", type=float, default=defaults.agreement)
    parser.add_argument("--draws", type=int, default=defaults.draws)
    parser.add_argument("--tuned", action="store_true", help="HSFM and Tune choose their settings on validation")
    parser.add_argument("--out", type=Path, help="folder for {SET}.parquet, with every draw, and {SET}.png")
    chosen = parser.parse_args()
    bias = ValidationBiasSettings(agreement=tuple(chosen.agreement), draws=chosen.draws)
    size, found = HardSetSettings().hard_per_class, {}
    for name in chosen.sets:
        splits, erm = read_set(name)
        rows = chosen_rows(chosen.methods, splits[0].features.shape[1], chosen.tuned)
        frame = measure_validation_bias(*splits, erm, bias=bias, rows=rows, hard_per_class=size)
        runs = found.setdefault(splits[0].dataset, [])
        runs.append(frame.assign(dataset=splits[0].dataset, run=len(runs)))
    for called, runs in found.items():
        frame = pd.concat(runs, ignore_index=True)
        frame["method"] = frame["method"].replace(LABELS)
        print(f"{called}\n\n{shown(summarize_bias(frame))}\n", flush=True)
        if chosen.out:
            chosen.out.mkdir(parents=True, exist_ok=True)
            write_frame(chosen.out / f"{called}.parquet", frame, {})
            draw_study("validation_bias", frame, called).savefig(chosen.out / f"{called}.png")


if __name__ == "__main__":
    main()
