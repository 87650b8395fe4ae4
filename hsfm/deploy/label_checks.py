"""Checks of a dataset's labels against all that methods, studies and figures ask of them, when they are read."""

import logging
from collections.abc import Mapping
from typing import Any

from hsfm.data.table import ImageTable
from hsfm.features.embeddings import Embeddings
from hsfm.heads.requirements import Requirement, check_holdout, check_labels, check_numbers, labels_of

log = logging.getLogger(__name__)


def check_table(table: ImageTable, asked: Mapping[str, Any], *, speaks: bool = False) -> None:
    """As `check_splits`, of an image table."""
    check_splits(labels_of(table, asked["extra"], asked["min_group"]), asked, speaks=speaks)


def check_splits(splits: Mapping[str, Embeddings], asked: Mapping[str, Any], *, speaks: bool = False) -> None:
    """Raise ValueError naming the source where labels do not suffice, so that a job of the workflow would fail.

    splits: train, val and test; their features are not read. asked: source; of a table extra and min_group; rows, by
    name the fields of `Requirement`; numbers, of `check_numbers`; holdout, a share and the runs, and agreement, of the
    study validation_bias, both None where nothing asks for them. speaks: whether to warn of rows that are going to be
    left out, and of characters that no font has.
    """
    rows = {row: Requirement(**{**of, "extra": tuple(of["extra"])}) for row, of in asked["rows"].items()}
    try:
        check_numbers(splits["train"], asked["numbers"])
        reasons = check_labels(splits, rows)
        if asked["holdout"]:
            check_holdout(splits["train"], *asked["holdout"])
        if asked["agreement"]:
            from hsfm.analysis import validation_bias  # imports scipy

            validation_bias.check_labels(splits["train"], splits["val"], splits["test"], asked["agreement"])
    except ValueError as error:
        raise ValueError(f"{asked['source']}: {error}") from error
    if speaks:
        for row, reason in reasons.items():
            log.warning("%s: %s is going to be left out: %s", asked["source"], row, reason)
        _warn_of_characters(splits["train"], asked["source"])


def _warn_of_characters(names: Embeddings, source: str) -> None:
    from hsfm.report.fonts import fallback, lacking  # imports matplotlib

    needed = lacking([*names.class_names, *names.attribute_names])
    family, left = fallback(needed) if needed else ("", "")
    if family:
        log.info("figures draw %s with %s", "".join(sorted({*needed} - {*left})), family)
    if left:
        advice = "figures show boxes for it; install one, such as Noto Sans CJK, and draw them anew"
        log.warning("%s: no installed font has %s: %s", source, left, advice)
