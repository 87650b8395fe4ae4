"""Base of every method's settings."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from hsfm.core.settings import FrozenSettings

Groups = Literal["none", "val", "train", "both"]
Halves = Literal["none", "class", "group"]
Rule = Literal["worst_group", "worst_class", "average", "inferred_group", "worst_value"]


class MethodSettings(FrozenSettings):
    """Settings of a method; hsfm/methods/NAME has a `Settings` of its own that adds fields."""

    select_by: Rule | None = Field(
        None,
        description="Rule by which validation picks an epoch or a setting: the accuracy of the worst group, which "
        "reads group labels of validation, of the worst class, the average, or that of the worst group that is "
        "inferred from features and classes, or of the worst class where none can be; worst_value is that of the worst "
        "class with one value of one attribute, where there are several. null takes the configuration's.",
    )

    @classmethod
    def lent(cls, like: Mapping[str, Any]) -> dict[str, Any]:
        """Of the settings given to the method that this one is like, those that serve where it has none of its own."""
        return {name: value for name, value in like.items() if name in cls.model_fields}

    @property
    def groups(self) -> Groups:
        """Splits whose group labels the method trains on; the attributes of all others are hidden from it."""
        return "none"

    @property
    def hinted(self) -> int:
        """Validation images per class whose group label the method may ask for where `groups` hides the others."""
        return 0

    @property
    def halves(self) -> Halves:
        """Parts of validation that lie in two halves, one to fit and one to score: each needs two images."""
        return "none"
