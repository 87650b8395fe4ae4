"""Command line `hsfm`: compare methods on features, predict the classes of images, export a network with a head."""

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hsfm import __version__
from hsfm.heads.known_methods import found

DEFAULTS = "erm dfr llr cb_llr afr tune hsfm"  # as `hsfm.deploy.compare.METHODS`; what is imported here loads no torch

RULES = ("worst_group", "worst_class", "average", "inferred_group", "worst_value")  # as `hsfm.heads.scorer.RULES`
SMALL = 500_000  # numbers in train; of fewer, a method takes less time than a process of its own needs to start
MEASURES = ("balanced_accuracy", "recall", "ece", "auroc")  # as `hsfm.evaluation.measures.MEASURES`


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["predict"]:
        from hsfm.deploy.predict import main as predict

        return predict(arguments[1:], "hsfm predict")
    parser = argparse.ArgumentParser("hsfm", description=__doc__.partition(": ")[2].capitalize())
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_compare(commands)
    commands.add_parser("predict", help="predict the classes of a folder's images", add_help=False)
    _add_export(commands)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except (ValueError, OSError) as error:
        print(f"ERROR: {error}", file=sys.stderr)
        return 1


def _add_compare(commands: argparse._SubParsersAction) -> None:
    named = ", ".join(name for name, method in found().items() if not method.images)
    parser = commands.add_parser(
        "compare",
        help="compare methods on given features",
        description="Fit every method on the same features and print test accuracies with their intervals. The exit "
        "status is 1 where a method failed; the others are printed.",
    )
    parser.add_argument(
        "features",
        metavar="FEATURES",
        nargs="+",
        help="three files, of train, val and test: .npz with x, y and attribute, or Parquet with feature, y and "
        "attribute; or one file with a column split: .npz, .parquet or .csv, whose other columns are features",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        metavar="METHOD",
        default=None,
        help=f"erm, {named} (by default {DEFAULTS}); or a variant as in the workflow's configuration: "
        "'{dfr_train: {method: dfr, on: train}}'",
    )
    parser.add_argument(
        "--select-by",
        choices=RULES,
        help="accuracy on validation that picks epochs and settings (worst_group where all attributes are known, "
        "else worst_class)",
    )
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N - 1 of each method (3)")
    parser.add_argument("--settings", metavar="FILE", help="YAML as --out writes it: settings by method, and the above")
    parser.add_argument(
        "--columns",
        nargs="+",
        default=[],
        metavar="KEY=NAME",
        help="of one table: its names for y, split, attribute (several: NAME,NAME)",
    )
    parser.add_argument(
        "--min-group", type=int, default=1, metavar="N", help="a group of fewer rows is not the worst (%(default)s)"
    )
    parser.add_argument(
        "--measures", nargs="+", default=[], choices=MEASURES, help="more than accuracy, in a table of its own"
    )
    parser.add_argument("--standardize", action="store_true", help="bring features to mean 0 and spread 1, as on train")
    parser.add_argument("--name", help="of the data in tables (the folder's or the table's)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for tables (CSV, Markdown), page and heads")
    parser.add_argument(
        "--jobs", type=int, default=None, help="methods side by side (all processor cores; 1 for small features)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:NUMBER (%(default)s)")
    parser.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> int:
    asked = _read_yaml(Path(options.settings).read_text()) if options.settings else {}
    if not isinstance(asked, dict) or asked.keys() - {"methods", "select_by", "seeds", "settings"}:
        raise ValueError(f"{options.settings}: expected the keys methods, select_by, seeds, settings, as --out writes")
    if options.methods is not None:
        asked["methods"] = [_read_yaml(method) for method in options.methods]
    if options.select_by is not None:
        asked["select_by"] = options.select_by
    if options.seeds is not None:
        asked["seeds"] = range(options.seeds)
    pairs = [column.partition("=") for column in options.columns]
    if wrong := [key + sign for key, sign, name in pairs if not (key and name)]:
        raise ValueError(f"--columns: {wrong[0]!r}; expected KEY=NAME")

    import joblib

    from hsfm.core.progress import say
    from hsfm.deploy import compare
    from hsfm.evaluation.measures import check_measures
    from hsfm.report.measures_table import measures_table
    from hsfm.report.summary import told_by_validation
    from hsfm.report.uncertainty import short_table

    first = Path(options.features[0])
    name = options.name or (first.stem if len(options.features) == 1 else first.resolve().parent.name) or "embeddings"
    splits = compare.read_files(options.features, name, {key: value for key, _, value in pairs})
    splits = compare.with_min_group(splits, options.min_group)
    if options.standardize:
        splits = compare.standardized(splits)
    plan = compare.make_plan(splits["val"], **asked)
    check_measures(options.measures, splits["test"].class_names)
    rows = ", ".join(f"{split} {len(part.y):,}" for split, part in splits.items())
    say(f"{name}: {rows} rows, {splits['train'].features.shape[1]:,} features, {splits['train'].n_classes} classes")
    small = splits["train"].features.numel() < SMALL
    jobs = options.jobs or (1 if small else joblib.cpu_count())
    comparison = compare.run(splits, plan, jobs=jobs, device=options.device, say=say)

    styled = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    marks = {"best": "Bold", "best_of_all": "underlined"} if styled else {"best": "*", "best_of_all": "+"}
    print()
    print(
        short_table(comparison.tables["uncertainty"][0], comparison.left_out, **marks).terminal(styled=styled), end=""
    )
    for sentence in told_by_validation(comparison.tables["uncertainty"][0]):
        print(f"\n{sentence[0].upper()}{sentence[1:]}.")
    more = {}
    if options.measures:
        measured = comparison.measured(splits, options.measures)
        more = {"measures": (measured, measures_table(measured))}
        print()
        print(more["measures"][1].terminal(styled=styled), end="")
    if options.out:
        from hsfm.deploy.comparison_files import SETTINGS, write_results

        again = ["hsfm", "compare", *options.features, "--settings", str(options.out / SETTINGS)]
        again += ["--columns", *options.columns] * bool(options.columns) + ["--standardize"] * options.standardize
        again += ["--min-group", str(options.min_group)] * (options.min_group > 1)
        again += ["--measures", *options.measures] * bool(options.measures)
        files = write_results(options.out, comparison, plan, more=more, command=shlex.join([*again, "--name", name]))
        print(f"\n{files[-1]} and {len(files) - 1} tables in {options.out / 'tables'}")
    # a method of the defaults for which these features have not what it needs is no error; the table says so
    wanting = comparison.without_head if "methods" in asked else comparison.failed
    for row, reason in wanting.items():
        print(f"ERROR: {row}: {reason}", file=sys.stderr)
        print(comparison.traces.get(row, ""), end="", file=sys.stderr)
    return 1 if wanting else 0


def _read_yaml(text: str) -> Any:
    import yaml

    from hsfm.core.nested import as_meant

    return as_meant(yaml.safe_load(text))


def _add_export(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "export",
        help="merge a network and a method's head into one file",
        description="Merge a checkpoint of the workflow and the head of one seed into one file, for torchvision, timm "
        "and `hsfm predict`.",
    )
    parser.add_argument("out", metavar="FILE", help="the model to write, .safetensors")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="the network, erm/backbone.safetensors")
    parser.add_argument("--heads", required=True, metavar="FILE", help="of a method on its features")
    parser.add_argument("--seed", type=int, help="of the head, where there are several")
    parser.add_argument("--standardization", metavar="FILE", help="of features that were standardized")
    parser.set_defaults(run=_export)


def _export(options: argparse.Namespace) -> int:
    from hsfm.deploy.export import export_model

    names = ("checkpoint", "heads", "seed", "standardization")
    export_model(options.out, **{name: getattr(options, name) for name in names})
    print(options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
