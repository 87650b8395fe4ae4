"""Tables of docs/results.md: every method on embeddings, on validation as it is and at an agreement of 50 and 95 %.

    python -m benchmarks.real.results FOLDER style_frozen style_tuned --out results/real

FOLDER holds {set}_{train,val,test}.npz or .parquet, as `hsfm compare` reads them. Validation of 50 and 95 % are
subsamples of equal size, drawn once; test stays. Heads are kept in --out, and only those that are not there are fitted.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Generator

from hsfm.analysis.validation_bias import class_sizes, subsample
from hsfm.core.text import duration
from hsfm.core.text_tables import percent
from hsfm.data.table import SPLITS
from hsfm.deploy.compare import make_plan, read_splits, run
from hsfm.evaluation.predictions import predict
from hsfm.evaluation.scores import score_heads
from hsfm.features.embeddings import Embeddings, minority_rows
from hsfm.heads.head import read_heads, write_heads
from hsfm.report.accuracy_tables import accuracy_tables
from hsfm.report.names import method_label
from hsfm.report.tables import GROUP_LABELS

METHODS = (
    *("erm", "class_scaling", "llr", "cb_llr", "idfr", "jtt", "evals", "afr", "tune", "hsfm"),
    *("dfr", {"dfr_train": {"method": "dfr", "on": "train"}}, "group_dro"),
    *({name: {"method": "balance", "by": by, "how": how}} for name, by, how in (
        ("suby", "class", "subsample"), ("rwy", "class", "reweight"),
        ("subg", "group", "subsample"), ("rwg", "group", "reweight"),
    )),
)  # fmt: skip
LABELS = {  # of rows that are no methods
    "dfr_train": "DFR on train", "suby": "balance, subsampled classes", "rwy": "balance, reweighted classes",
    "subg": "balance, subsampled groups", "rwg": "balance, reweighted groups",
}  # fmt: skip
AGREEMENT = (0.5, 0.95)


def validations(splits: Mapping[str, Embeddings]) -> dict[str, Embeddings]:
    """Validation as it is, and subsamples of one size with other agreements, by a name of the file."""
    train, val = splits["train"], splits["val"]
    minority = minority_rows(train, val)
    sizes = class_sizes(val, minority, AGREEMENT)
    drawn = {
        f"val{100 * share:.0f}": subsample(val, minority, sizes, share, Generator().manual_seed(0))
        for share in AGREEMENT
    }
    return {"val": val, **drawn}


def compared(splits: Mapping[str, Embeddings], methods: Sequence[Any], folder: Path) -> pd.DataFrame:
    """Accuracies and seconds of every method. Heads lie in the folder, each fitted once."""
    rows = {}
    for method in methods:
        name = method if isinstance(method, str) else next(iter(method))
        file = folder / f"{name}.safetensors"
        if not file.exists():
            found = run(splits, make_plan(splits["val"], methods=[method]), say=print)
            if name not in found.rows:
                print(f"{file}: {found.without_head[name]}")
                continue
            folder.mkdir(parents=True, exist_ok=True)
            write_heads(file, found.rows[name].saved)
            file.with_suffix(".json").write_text(json.dumps({"seconds": found.rows[name].seconds}))
        rows[name] = read_heads(file)
    parts = list(splits.values())
    scores = pd.concat([score_heads(saved, parts, run=0) for saved in rows.values()], ignore_index=True)
    predictions = [predict(saved, parts[-1], run=0) for saved in rows.values()]
    left_out = pd.DataFrame(columns=["dataset", "method", "reason"])
    frame, _ = accuracy_tables(scores.assign(file="scores.parquet"), predictions, left_out, {})["main"]
    seconds = {name: json.loads((folder / f"{name}.json").read_text())["seconds"] for name in rows}
    return frame.assign(seconds=frame["method"].map(seconds), n_val=len(splits["val"].y))


def cell(row: pd.Series, metric: str) -> str:
    """Mean, deviation and interval; a dash where there is no such row."""
    if pd.isna(row[f"{metric}_percent"]):
        return "-"
    text = percent(row[f"{metric}_percent"], row[f"{metric}_deviation"])
    return f"{text} [{row[f'{metric}_low']:.0f}-{row[f'{metric}_high']:.0f}]"


def table(whole: pd.DataFrame, biased: Mapping[str, pd.DataFrame]) -> str:
    """A row per method in Markdown. whole: on all of validation; biased: by the header of a column."""
    heads = ["Method", "Group labels", "worst group", "average", *biased, "time of three seeds"]
    lines = [heads, ["---", "---", *["---:"] * (len(heads) - 2)]]
    for _, row in whole.iterrows():
        others = [of.set_index("method").reindex([row["method"]]).iloc[0] for of in biased.values()]
        lines.append([
            LABELS.get(row["method"], method_label(row["method"])), GROUP_LABELS[row["group_labels"]],
            f"**{cell(row, 'worst_group')}**" if row["worst_group_best"] else cell(row, "worst_group"),
            cell(row, "average"), *(cell(other, "worst_group") for other in others), duration(row["seconds"]),
        ])  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of {set}_{split}.npz or .parquet")
    parser.add_argument("sets", nargs="+", help="names of the files before _train")
    parser.add_argument("--out", type=Path, default=Path("results/real"), help="(%(default)s)")
    parser.add_argument("--methods", nargs="+", help="some of the rows (all)")
    args = parser.parse_args()
    asked = [m for m in METHODS if args.methods is None or (m if isinstance(m, str) else next(iter(m))) in args.methods]
    for name in args.sets:
        suffix = ".npz" if (args.folder / f"{name}_train.npz").exists() else ".parquet"
        splits = read_splits({split: args.folder / f"{name}_{split}{suffix}" for split in SPLITS}, name)
        found = {
            part: compared({**splits, "val": val}, asked, args.out / name / part)
            for part, val in validations(splits).items()
        }
        whole = found.pop("val")
        heads = {f"val {part[3:]} % (n = {of['n_val'].iloc[0]})": of for part, of in found.items()}
        print(f"\n{name}\n\n{table(whole, heads)}\n")


if __name__ == "__main__":
    main()
