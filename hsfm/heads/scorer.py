"""Scorer: accuracy of heads on validation, by the rule that picks an epoch or a setting."""

from typing import get_args

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from hsfm.core.metrics import accuracy_by, validation_measures, worst
from hsfm.features.embeddings import Embeddings
from hsfm.heads.method_settings import Rule

RULES = get_args(Rule)
OF_GROUPS = ("worst_group", "worst_value")  # rules that read group labels of validation


class Scorer:
    """Scores logits on the rows of `val` by one rule; higher is better.

    It may read group labels where a method may not: the method sees numbers only. `asked` says afterwards whether a
    choice was made by it. Nothing waits for the device. Raises ValueError for `worst_group` with an unknown attribute.

    inferred: for `inferred_group`, the rows of val with their inferred attribute, and the reason where it is not to be
    believed: the worst class decides then, as `in_words` says.
    """

    def __init__(self, val: Embeddings, rule: Rule, inferred: tuple[Embeddings, str] | None = None):
        if rule in OF_GROUPS:
            val.require_attributes(f'select_by="{rule}"')
        if (rule == "inferred_group") != (inferred is not None):
            raise ValueError(f"inferred: goes with the rule inferred_group, and with no other; the rule is {rule}")
        self.rule = rule
        self.asked = False
        self._val, self._group, self._values = val, _large(val), val.value_groups
        rows, self.doubt = inferred or (None, "")
        self._inferred = None if rows is None or self.doubt else rows

    def __call__(self, logits: Float[Tensor, "*s n c"], rows: Int[Tensor, " n"] | None = None) -> Float[Tensor, "*s"]:
        """Accuracy by the rule. rows: of val that the logits are of, all by default."""
        return self.choose(self.measures(logits, rows))

    def choose(self, measures: dict[str, Float[Tensor, "*s"]]) -> Float[Tensor, "*s"]:
        """The one of some `measures` that the rule goes by."""
        self.asked = True
        return measures["val_worst_class" if self.doubt else f"val_{self.rule}"]

    def measures(
        self, logits: Float[Tensor, "*s n c"], rows: Int[Tensor, " n"] | None = None
    ) -> dict[str, Float[Tensor, "*s"]]:
        """val_average, val_worst_group (NaN where no group is known) and val_worst_class, for a method's history.

        Under the rule `inferred_group` val_inferred_group, too, where groups could be inferred, and under worst_value
        val_worst_value.
        """
        val = self._val
        y, group = (val.y, self._group) if rows is None else (val.y[rows], self._group[rows])
        correct = logits.argmax(-1) == y
        measures = validation_measures(correct, y, group, val.n_classes, val.n_groups)
        if self._inferred is not None:
            group = self._inferred.group if rows is None else self._inferred.group[rows]
            measures["val_inferred_group"] = worst(accuracy_by(correct, group, self._inferred.n_groups))
        if self.rule == "worst_value":
            of_each = [
                worst(accuracy_by(correct, group if rows is None else group[rows], n)) for group, n in self._values
            ]
            measures["val_worst_value"] = torch.stack(of_each).amin(0)
        return measures

    def of_classes(
        self, classes: Integer[Tensor, "*s n"], rows: Int[Tensor, " n"] | None = None
    ) -> Float[Tensor, "*s"]:
        """Accuracy by the rule, of heads that predict these classes: as of logits, but no other rule is measured."""
        correct = classes == (self._val.y if rows is None else self._val.y[rows])
        lowest = [worst(accuracy_by(correct, part if rows is None else part[rows], n)) for part, n in self.scored_parts]
        return torch.stack(lowest).amin(0)

    @property
    def parts(self) -> Int[Tensor, " n"]:
        """Parts of val that a cut of it is to leave in proportion: groups where the rule reads them, else classes."""
        self.asked = True
        if self.rule == "worst_group":
            return self._group
        return self._val.y if self._inferred is None else self._inferred.group

    @property
    def scored_parts(self) -> list[tuple[Int[Tensor, " n"], int]]:
        """Ways to part val whose lowest accuracy the rule is: the part of every row, -1 for none, and their number."""
        self.asked = True
        val = self._val
        if self.rule == "average":
            return [(torch.zeros_like(val.y), 1)]
        if self.rule == "worst_group":
            return [(self._group, val.n_groups)]
        if self.rule == "worst_value":
            return self._values
        return [(val.y, val.n_classes) if self._inferred is None else (self._inferred.group, self._inferred.n_groups)]

    @property
    def in_words(self) -> str:
        """The rule for readers: `worst group`."""
        if self.rule != "inferred_group":
            return self.rule.replace("_", " ")
        return f"worst class (no groups inferred: {self.doubt})" if self.doubt else "worst inferred group"


def _large(val: Embeddings) -> Int[Tensor, " n"]:
    """The group of every row, -1 for those of groups with fewer rows than count for the worst group."""
    if val.min_group == 1:
        return val.group
    sizes = torch.bincount(val.group + 1, minlength=val.n_groups + 1)
    return torch.where(sizes[val.group + 1] < val.min_group, -1, val.group)
