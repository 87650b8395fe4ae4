"""Training of a head on hard validation rows, epoch by epoch: settings and rule that HSFM and its control share."""

from collections.abc import Mapping
from typing import Any, Literal

from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from hsfm.heads.method_settings import MethodSettings, Rule
from hsfm.heads.scorer import Scorer


def swept(default: int | float, values: list, description: str) -> Any:
    """A setting that the sensitivity study varies."""
    return Field(default, description=description, json_schema_extra={"sweep": values})


class HardTrainingSettings(MethodSettings):
    """Settings of the head's training; the paper's symbols stand in the descriptions."""

    inner_steps: PositiveInt = swept(
        10, [5, 10, 20], "T: gradient steps of the head on the support, in each meta-gradient and each epoch."
    )
    inner_lr: PositiveFloat = swept(
        0.0005,
        [0.0001, 0.0002, 0.0005, 0.001, 0.002],
        "alpha: step size of the head; the paper's 0.00005 suits d of 1280 and more.",
    )
    epochs: PositiveInt = Field(40, description="Rounds of editing the support and adapting the head.")
    refresh: Literal["epoch", "never"] = Field(
        "epoch", description="Choose the outer set anew each epoch (the paper), or once, at the start."
    )
    select_by: Rule | Literal["hard_loss"] | None = Field(
        None,
        description="Rule that picks the epoch, the later one on a tie: validation's worst_group (the paper), "
        "worst_class, average, inferred_group, or the lowest mean loss on the head's own hard set. null takes the "
        "configuration's.",
    )

    def epoch_in_words(self, scorer: Scorer) -> str:
        """The rule that picked the epoch."""
        if self.select_by == "hard_loss":
            return "the epoch with the lowest loss on its hard set"
        return f"the epoch with the best validation {scorer.in_words}"

    def rule(self, scorer: Scorer) -> "Scorer | HardLoss":
        """Chooser of the epoch, by measures that hold `hard_loss` too."""
        return HardLoss(scorer) if self.select_by == "hard_loss" else scorer


class HardLoss:
    """A scorer that goes by the head's own hard set; it measures as another does."""

    def __init__(self, scorer: Scorer):
        self.measures = scorer.measures

    def choose(self, measures: Mapping[str, Float[Tensor, "*r"]]) -> Float[Tensor, "*r"]:
        return -measures["hard_loss"]
