"""Scorer: accuracy of heads on validation, by the rule that picks an epoch or a setting."""

from typing import get_args

from jaxtyping import Float, Int
from torch import Tensor

from hsfm.core.metrics import validation_measures
from hsfm.features.embeddings import Embeddings
from hsfm.heads.method_settings import Rule

RULES = get_args(Rule)


class Scorer:
    """Scores logits on the rows of `val` by one rule; higher is better.

    It may read group labels where a method may not: the method sees numbers only. `asked` says afterwards whether a
    choice was made by it. Nothing waits for the device. Raises ValueError for `worst_group` with an unknown attribute.
    """

    def __init__(self, val: Embeddings, rule: Rule):
        if rule == "worst_group":
            val.require_attributes('select_by="worst_group"')
        self.rule = rule
        self.asked = False
        self._val, self._group = val, val.group

    def __call__(self, logits: Float[Tensor, "*s n c"], rows: Int[Tensor, " n"] | None = None) -> Float[Tensor, "*s"]:
        """Accuracy by the rule. rows: of val that the logits are of, all by default."""
        return self.choose(self.measures(logits, rows))

    def choose(self, measures: dict[str, Float[Tensor, "*s"]]) -> Float[Tensor, "*s"]:
        """The one of some `measures` that the rule goes by."""
        self.asked = True
        return measures[f"val_{self.rule}"]

    def measures(
        self, logits: Float[Tensor, "*s n c"], rows: Int[Tensor, " n"] | None = None
    ) -> dict[str, Float[Tensor, "*s"]]:
        """val_average, val_worst_group (NaN where no group is known) and val_worst_class, for a method's history."""
        val = self._val
        y, group = (val.y, self._group) if rows is None else (val.y[rows], self._group[rows])
        return validation_measures(logits.argmax(-1) == y, y, group, val.n_classes, val.n_groups)

    @property
    def in_words(self) -> str:
        """The rule for readers: `worst group`."""
        return self.rule.replace("_", " ")
