"""Training of a head on hard validation rows, epoch by epoch: settings and rule that HSFM and its control share."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from jaxtyping import Float
from pydantic import Field, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from hsfm.core.settings import SOME, FrozenSettings, Unlike
from hsfm.heads.method_settings import MethodSettings, Rule
from hsfm.heads.scorer import Scorer


def swept(default: int | float, values: list, description: str) -> Any:
    """A setting that the sensitivity study varies."""
    return Field(default, description=description, json_schema_extra={"sweep": values})


Rates = Annotated[tuple[PositiveFloat, ...], SOME, Unlike]
Shares = Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], SOME, Unlike]
Counts = Annotated[tuple[PositiveInt, ...], SOME, Unlike]


class TuneSettings(FrozenSettings):
    """Grid that is tried on halves of validation before the fit: every combination of the lists.

    The points of one combination of hard_share, support_per_class, inner_steps and support_steps are trained side by
    side, as one batch, since inner_lr and outer_lr alone may differ in it; each further combination is a batch.
    """

    inner_lr: Rates = Field(
        (0.005, 0.01, 0.02),
        description="alpha, in units of 1 / (d s), d the number of features and s their mean absolute deviation on "
        "train: a step of Adam then moves a logit by about this much. One batch.",
    )
    outer_lr: Rates = Field((0.05, 0.1), description="eta, in units of s. One batch with inner_lr.")
    hard_share: Shares = Field(
        (0.3, 1.0),
        description="K_hard as a share of each class among the rows that teach; classes count alike. A batch each.",
    )
    support_per_class: Counts = Field(
        (32,),
        description="Support rows drawn per class; with 16 some seeds had a support that their head failed on. A batch "
        "each.",
    )
    inner_steps: Counts = Field((10,), description="T. A batch each.")
    support_steps: Counts = Field((3,), description="K_H, at least 1. A batch each.")
    epochs: PositiveInt = Field(200, description="Most epochs.")
    patience: PositiveInt = Field(
        60, description="A batch ends where no point of it has improved on held-out rows for so many epochs."
    )
    repeats: PositiveInt = Field(
        2, description="Ways to halve validation; on each, either half teaches once and is held out once."
    )


# a setting of this name is found by `tune`; where a configuration gives one, it is fixed, and nothing is tuned
TUNED = ("support_per_class", "inner_steps", "inner_lr", "outer_lr", "support_steps", "epochs")


class HardTrainingSettings(MethodSettings):
    """Settings of the head's training; the paper's symbols stand in the descriptions."""

    tune: TuneSettings | None = Field(
        TuneSettings(),
        description="Choose what stands in it on held-out halves of validation, then fit on all of validation. null "
        "takes the settings beside it as they are, and picks the epoch on the rows that teach. The default is null "
        f"where one of these is given: {', '.join(TUNED)}, or the rule hard_loss. true is the grid, false null.",
    )

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

    @classmethod
    def fixes(cls, values: Mapping[str, Any]) -> bool:
        """Whether settings as given leave nothing to `tune`."""
        return bool(values.keys() & {*TUNED}) or values.get("select_by") == "hard_loss"

    @classmethod
    def lent(cls, like: Mapping[str, Any]) -> dict[str, Any]:
        # what is given may fix the other method by a setting that this one lacks
        fixed = {"tune": None} if "tune" not in like and cls.fixes(like) else {}
        return {**super().lent(like), **fixed}

    @model_validator(mode="before")
    @classmethod
    def _fixed_where_given(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        tune = values.get("tune", not cls.fixes(values))
        return {**values, "tune": {True: TuneSettings(), False: None}[tune] if isinstance(tune, bool) else tune}

    @model_validator(mode="after")
    def _tuned_by_accuracy(self) -> "HardTrainingSettings":
        if self.tune is not None and self.select_by == "hard_loss":
            raise ValueError("select_by: hard_loss picks an epoch on the rows that teach; set tune: null beside it")
        return self

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
