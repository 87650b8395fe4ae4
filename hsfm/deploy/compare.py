"""Methods on embeddings compared on given features, by the functions of the workflow and without Snakemake.

A row of the tables is a method with its settings; the numbers are those that the workflow gives for the same features,
settings and seeds, bit for bit on the CPU, since every row is fitted by one thread.
"""

import functools
import logging
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from joblib import Parallel, delayed, parallel_config
from threadpoolctl import threadpool_limits

from hsfm.core.device import choose_device
from hsfm.core.mistakes import checked
from hsfm.core.nested import merged
from hsfm.core.progress import Progress, quiet
from hsfm.core.text import duration, on_test
from hsfm.core.text_tables import TextTable
from hsfm.data.table import SPLITS
from hsfm.evaluation.measures import check_measures, measure
from hsfm.evaluation.predictions import Predictions, predict
from hsfm.evaluation.scores import score_heads
from hsfm.features import standardize
from hsfm.features.embeddings import Embeddings, check_embeddings, check_same_origin
from hsfm.features.imported import SEVERAL, import_arrays, import_embeddings
from hsfm.features.one_table import import_table
from hsfm.heads.erm_head import ERMHeadSettings, erm_row
from hsfm.heads.fit_inputs import FitInputs
from hsfm.heads.hard_set import HardSetSettings, build
from hsfm.heads.head import SavedHeads
from hsfm.heads.known_methods import Method, found
from hsfm.heads.method_settings import MethodSettings
from hsfm.heads.scorer import OF_GROUPS, RULES
from hsfm.heads.supervision import fit_row
from hsfm.report.accuracy_tables import accuracy_tables
from hsfm.report.names import method_label

log = logging.getLogger(__name__)

METHODS = ("erm", "dfr", "llr", "cb_llr", "afr", "tune", "hsfm")  # of the default run, those on embeddings
SECTIONS = {"erm_head": ERMHeadSettings, "hard_set": HardSetSettings}  # settings beside the methods'
ARRAYS = {"x": "features"}  # names in a file of features whose thing is called otherwise

Source = str | Path | Embeddings | Mapping[str, Any]


def compare(
    train: Source,
    val: Source,
    test: Source,
    *,
    methods: Sequence[str | Mapping[str, Mapping[str, Any]]] = METHODS,
    select_by: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    name: str = "embeddings",
    min_group: int = 1,
    measures: Sequence[str] = (),
    jobs: int = 1,
    device: str = "auto",
) -> pd.DataFrame:
    """Test accuracies of methods on the same features, with their 95 % intervals: a row per method.

    train, val, test: each an .npz or Parquet file as `import_embeddings` reads it; or a mapping with x [n d], y [n] and
    where there are any attribute [n], or of several attributes [n k] or a DataFrame, image_id [n] and early_logits
    [n c]; or `Embeddings`. Heads are fitted on train
    and val and chosen on val; test only scores.
    methods: names of modules in hsfm/methods, erm, or variants as in the workflow's configuration, `{"dfr_train":
    {"method": "dfr", "on": "train"}}`. select_by: a rule as in the configuration; None is worst_group where the
    attributes of val are known, else worst_class. settings: by method, and of `erm_head` and `hard_set`. name: of the
    dataset in tables. min_group: rows that a group of a split needs to count for its worst group. measures: more than
    accuracy, balanced_accuracy, recall, ece or auroc. jobs: methods side by side, in processes of their own.

    Columns: dataset, method, group_labels (use of them), runs, seeds, and of worst_group, average, adjusted_average and
    worst_class the mean `_percent`, `_deviation` over seeds, ends `_low` and `_high` of the interval over test images,
    and whether it is among the `_best`, or the `_best_of_block` of methods that use group labels alike; then those of
    `measures`, as `hsfm.evaluation.measures.measure` names them.
    `attrs["failed"]` has the reason of every method that has no row, and a warning is logged for each.

    Raises ValueError naming the input and the value for features, methods or settings that are not sound.
    """
    splits = with_min_group(read_splits({"train": train, "val": val, "test": test}, name), min_group)
    plan = make_plan(splits["val"], methods=methods, select_by=select_by, seeds=seeds, settings=settings)
    check_measures(measures, splits["test"].class_names)
    comparison = run(splits, plan, jobs=jobs, device=device)
    for row, reason in comparison.without_head.items():
        log.warning("%s has no row: %s", method_label(row), reason)
    frame, _ = comparison.tables["main"]
    if measures:
        frame = frame.merge(comparison.measured(splits, measures), on="method")
    frame.attrs["failed"] = comparison.without_head
    return frame


def read_splits(sources: Mapping[str, Source], name: str) -> dict[str, Embeddings]:
    """Embeddings by split, all from files, from mappings or given."""
    kinds = {type(source) for source in sources.values()}
    if all(issubclass(kind, str | Path) for kind in kinds):
        return import_embeddings(sources, name)
    if kinds == {Embeddings}:
        splits = {split: replace(part, dataset=name, split=split) for split, part in sources.items()}
        for split, part in splits.items():
            check_embeddings(part, split)
            check_same_origin(splits["train"], part)
        return splits
    if all(issubclass(kind, Mapping) for kind in kinds):
        return import_arrays({split: _arrays(split, source) for split, source in sources.items()}, name)
    found = ", ".join(f"{split} {type(source).__name__}" for split, source in sources.items())
    raise ValueError(f"train, val and test: got {found}; expected three files, three mappings or three Embeddings")


def _arrays(split: str, source: Mapping[str, Any]) -> dict[str, Any]:
    lacking = [name for name in ("x", "y") if name not in source]
    if lacking:
        raise ValueError(f"{split}: no {lacking[0]!r}; there are {', '.join(map(str, source))}")
    arrays = {ARRAYS.get(name, name): source[name] for name in source}
    if isinstance(arrays.get("attribute"), pd.DataFrame):
        several = arrays.pop("attribute")
        arrays |= {f"{SEVERAL}{name}": several[name].to_numpy(object) for name in several}
    return arrays


def read_files(
    files: Sequence[str | Path], name: str, columns: Mapping[str, str] | None = None
) -> dict[str, Embeddings]:
    """Embeddings by split of three files, in the order train, val, test, or of one with a column for the split."""
    if len(files) == 1:
        return import_table(files[0], name, columns)
    if len(files) != len(SPLITS):
        raise ValueError(f"{len(files)} files; expected three, of train, val and test, or one table with all splits")
    if columns:
        raise ValueError("columns: are for one table; files of splits have x (feature in Parquet), y and attribute")
    return import_embeddings(dict(zip(SPLITS, files, strict=True)), name)


def with_min_group(splits: Mapping[str, Embeddings], min_group: int) -> dict[str, Embeddings]:
    """The splits, of which groups of fewer rows do not count for the worst group; ValueError for less than one."""
    if min_group < 1:
        raise ValueError(f"min_group: {min_group}; expected a whole number of rows from 1")
    return {split: replace(part, min_group=min_group) for split, part in splits.items()}


def standardized(splits: Mapping[str, Embeddings]) -> dict[str, Embeddings]:
    """The splits with features of mean 0 and standard deviation 1 on train."""
    found = standardize.fit(splits["train"].features)
    return {split: replace(part, features=found.apply(part.features)) for split, part in splits.items()}


@dataclass(frozen=True)
class Plan:
    """Rows of the tables and how they are fitted."""

    rows: Mapping[str, tuple[str, MethodSettings]]  # by name, method and settings; without ERM's
    erm: int | None  # place of ERM's row among them, None without it
    seeds: tuple[int, ...]
    select_by: str
    sections: Mapping[str, Any]  # of SECTIONS

    def as_yaml(self) -> dict[str, Any]:
        """All settings, in the form that `make_plan` takes."""
        names = list(self.rows)
        if self.erm is not None:
            names.insert(self.erm, "erm")
        variants = {row: method for row, (method, _) in self.rows.items() if row != method}
        own = {row: of.model_dump(mode="json") for row, (_, of) in self.rows.items()}
        return {
            "methods": [{n: {"method": variants[n], **own[n]}} if n in variants else n for n in names],
            "select_by": self.select_by,
            "seeds": list(self.seeds),
            "settings": {row: values for row, values in own.items() if row not in variants}
            | {name: section.model_dump(mode="json") for name, section in self.sections.items()},
        }


def make_plan(
    val: Embeddings,
    *,
    methods: Sequence[str | Mapping[str, Mapping[str, Any]]] = METHODS,
    select_by: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Plan:
    """The rows that are asked for, each with its settings; arguments as in `compare`, and so are the errors."""
    settings, known = dict(settings or {}), bool((val.attribute >= 0).all())
    of_embeddings = {name: method for name, method in found().items() if not method.images}
    if select_by not in (None, *RULES):
        raise ValueError(f"select_by: unknown {select_by!r}; allowed are {', '.join(RULES)}")
    if select_by in OF_GROUPS:
        val.require_attributes(f"select_by: {select_by}")
    seeds = tuple(seeds)
    if not seeds or len({*seeds}) < len(seeds) or not all(isinstance(seed, int) and seed >= 0 for seed in seeds):
        raise ValueError(f"seeds: {list(seeds)}; expected different whole numbers from 0, at least one")
    if unknown := settings.keys() - {*of_embeddings, *SECTIONS}:
        raise ValueError(f"settings: unknown {min(unknown)!r}; allowed are {', '.join([*of_embeddings, *SECTIONS])}")
    select_by = select_by or ("worst_group" if known else "worst_class")
    if select_by == "worst_group" and (largest := int(torch.bincount(val.group).max())) < val.min_group:
        raise ValueError(f"min_group: is {val.min_group}, but the largest group of validation has {largest} rows")
    rows: dict[str, tuple[str, MethodSettings]] = {}
    place = None
    for number, asked in enumerate(methods):
        row, method, other = (asked, asked, {}) if isinstance(asked, str) else _variant(asked, of_embeddings)
        if row in rows or (row == "erm" and place is not None):
            raise ValueError(f"methods: {row!r} comes twice")
        if row == "erm":
            place = number
            continue
        if method in found() and method not in of_embeddings:
            raise ValueError(f"methods: {method} is trained on images, of which there are none here")
        if method not in of_embeddings:
            raise ValueError(f"methods: unknown {method!r}; allowed are erm, {', '.join(of_embeddings)}")
        rows[row] = method, _settings(of_embeddings[method], settings, other, select_by)
    if not rows and place is None:
        raise ValueError("methods: none is asked for")
    sections = {name: _checked(kind, settings.get(name, {}), (name,)) for name, kind in SECTIONS.items()}
    return Plan(rows, place, seeds, select_by, sections)


def _variant(asked: Any, known: Mapping[str, Method]) -> tuple[str, str, dict[str, Any]]:
    """Name, method and settings of a row that is a variant."""
    if not isinstance(asked, Mapping) or len(asked) != 1 or not isinstance(next(iter(asked.values())), Mapping):
        raise ValueError(f"methods: {asked!r}; expected a name, or {{NAME: {{method: ..., and its settings}}}}")
    ((row, own),) = asked.items()
    if row in known or row == "erm":
        raise ValueError(f"methods: {row!r} cannot be the name of a variant: a method is called that")
    if "method" not in own:
        raise ValueError(f"methods: {row!r} does not say its method")
    return row, own["method"], {name: value for name, value in own.items() if name != "method"}


def _settings(method: Method, given: Mapping[str, Any], other: Mapping[str, Any], select_by: str) -> MethodSettings:
    """Settings of one row: the method's own, those of the method that it is like, and what a variant changes."""
    kind = import_module(f"hsfm.methods.{method.name}").Settings
    values = merged(merged(kind.lent(given.get(method.like, {})), dict(given.get(method.name, {}))), other)
    if isinstance(method.features, dict):  # there is one network here, which stands for ERM's
        own = next(value for value, features in method.features.items() if features == "erm")
        if values.setdefault("on", own) != own:
            raise ValueError(f"{method.name}: on: {values['on']} needs a network of its own; here it is {own}")
    if values.get("select_by", kind.model_fields["select_by"].default) is None:
        values["select_by"] = select_by
    return _checked(kind, values, (method.name,))


def _checked(kind: Any, values: Mapping[str, Any], where: tuple[str, ...]) -> Any:
    settings, mistakes = checked(kind, dict(values), where)
    if mistakes:
        raise ValueError("; ".join(mistakes))
    return settings


@dataclass(frozen=True)
class Row:
    """The heads of one row, and how they do."""

    saved: SavedHeads
    scores: pd.DataFrame
    predictions: Predictions
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """Results of all rows, in the order that was asked for."""

    rows: Mapping[str, Row]
    lacking: Mapping[str, str]  # by row without a head, what of the data its method lacks
    failed: Mapping[str, str]  # by row without a head, the error
    traces: Mapping[str, str] = field(default_factory=dict)  # tracebacks of errors that no input accounts for
    seconds: float = 0.0  # by the clock

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        return pd.concat([row.scores for row in self.rows.values()], ignore_index=True).assign(file="scores.parquet")

    @property
    def without_head(self) -> dict[str, str]:
        return {**self.lacking, **self.failed}

    @functools.cached_property
    def left_out(self) -> pd.DataFrame:
        dataset = next(iter(self.rows.values())).predictions.dataset
        reasons = [(dataset, row, reason.rstrip(".")) for row, reason in self.without_head.items()]
        return pd.DataFrame(reasons, columns=["dataset", "method", "reason"])

    @functools.cached_property
    def tables(self) -> dict[str, tuple[pd.DataFrame, TextTable]]:
        """Numbers and text of the workflow's tables: main, metrics, groups, uncertainty."""
        return accuracy_tables(self.scores, [row.predictions for row in self.rows.values()], self.left_out, {})

    def measured(self, splits: Mapping[str, Embeddings], measures: Sequence[str]) -> pd.DataFrame:
        """More than accuracy, as `hsfm.evaluation.measures.measure` has it, in the order of the tables."""
        val, test = splits["val"], splits["test"]
        logits = {
            name: tuple(self.rows[name].saved.head.logits(part.features).double().numpy() for part in (test, val))
            for name in self.tables["main"][0]["method"]
        }
        labels = (part.numpy() for part in (test.y, val.y, test.group))
        return measure(logits, *labels, class_names=test.class_names, measures=measures)


def run(
    splits: Mapping[str, Embeddings],
    plan: Plan,
    *,
    jobs: int = 1,
    device: str = "auto",
    say: Callable[[str], None] = lambda text: None,
) -> Comparison:
    """Fit and score every row, `jobs` at a time, each by one thread. say: gets a line for each that is done.

    A row that fails leaves the others as they are. Raises ValueError where ERM's head cannot be fitted or no row has a
    head.
    """
    began = time.monotonic()
    place, names = choose_device(device), list(plan.rows)
    with one_thread():
        erm = erm_row(splits["train"], plan.sections["erm_head"], run=0)
        hard_set = functools.cache(
            lambda: build(erm.head[0], splits["val"], per_class=plan.sections["hard_set"].hard_per_class)
        )
        done: dict[str, Row] = {}
        if plan.erm is not None:
            names.insert(plan.erm, "erm")
            done["erm"] = _row(erm, splits, time.monotonic() - began)
            say(f"ERM: {on_test(done['erm'].scores)} ({duration(done['erm'].seconds)})")
        tasks = [
            delayed(_fit)(
                row, method, settings, splits, erm, {need: hard_set() for need in found()[method].needs}, plan.seeds,
                place if found()[method].device else torch.device("cpu"),
            )
            for row, (method, settings) in plan.rows.items()
        ]  # fmt: skip
        # those that may ask for a GPU take longest
        tasks.sort(key=lambda task: not found()[task[1][1]].device)
        failed, lacking, traces = {}, {}, {}
        with Progress("comparing", len(tasks), "method") as progress:
            for row, result, trace in _computed(tasks, jobs):
                if isinstance(result, Row):
                    done[row] = result
                    if result.saved.left_out:
                        lacking[row] = done.pop(row).saved.left_out
                    said = f"left out. {lacking[row]}" if row in lacking else on_test(result.scores)
                    say(f"{method_label(row)}: {said} ({duration(result.seconds)})")
                else:
                    failed[row] = result
                    traces |= {row: trace} if trace else {}
                    say(f"{method_label(row)}: failed. {result}")
                progress.update()
    if not done:
        raise ValueError("; ".join(f"{row}: {reason}" for row, reason in {**lacking, **failed}.items()))
    rows, lacking, failed = ({name: of[name] for name in names if name in of} for of in (done, lacking, failed))
    return Comparison(rows, lacking, failed, traces, time.monotonic() - began)


def _computed(tasks: Sequence[Any], jobs: int) -> Iterator[Any]:
    """Results of some tasks as they come."""
    if jobs == 1 or len(tasks) < 2:
        for function, positional, named in tasks:
            yield function(*positional, **named)
        return
    with parallel_config("loky", inner_max_num_threads=1):
        yield from Parallel(min(jobs, len(tasks)), return_as="generator_unordered")(tasks)


def _fit(
    row: str, method: str, settings: MethodSettings, splits: Mapping[str, Embeddings], erm: SavedHeads,
    needs: Mapping[str, Any], seeds: Sequence[int], device: torch.device,
) -> tuple[str, Row | str, str]:  # fmt: skip
    """The name of a row, and the row; or why it failed, and the traceback where that is not the data's fault."""
    began = time.monotonic()
    inputs = FitInputs(splits["train"], splits["val"], erm.head[0], erm.checkpoint_sha256, dict(needs))
    how = {"row": row, "settings": settings, "seeds": seeds, "device": device}
    try:
        with quiet():
            _, saved = fit_row(import_module(f"hsfm.methods.{method}"), inputs, **how)
        return row, _row(saved, splits, time.monotonic() - began), ""
    except ValueError as error:
        return row, str(error), ""
    except Exception as error:
        return row, f"{type(error).__name__}: {error}", traceback.format_exc()


def _row(saved: SavedHeads, splits: Mapping[str, Embeddings], seconds: float) -> Row:
    parts = list(splits.values())
    return Row(saved, score_heads(saved, parts, run=0), predict(saved, parts[-1], run=0), seconds)


@contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch, BLAS and OpenMP compute with one thread, so that sums have one order on every machine."""
    before = torch.get_num_threads()
    with threadpool_limits(1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
