"""Base of all settings: frozen models whose fields carry default, bounds, unit, meaning and source.

A setting is declared once, in a class beside the function that uses it. The configuration is composed of these classes
(workflow/hsfm_workflow/config.py); its JSON schema and the reference in docs/ are generated from them.
"""

from difflib import get_close_matches
from typing import Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


class FrozenSettings(BaseModel):
    """Settings of one function or stage; an unknown key, a NaN or an infinity is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    @model_validator(mode="before")
    @classmethod
    def _name_unknown(cls, values: Any) -> Any:
        """Refuse the first key that is unknown in words of its own, since pydantic does not say what is known."""
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                close = get_close_matches(str(key), cls.model_fields, n=1)
                hint = f"did you mean {close[0]!r}?" if close else f"allowed are {', '.join(cls.model_fields)}"
                raise ValueError(f"unknown key {key!r}; {hint}")
        return values


def unlike(values: tuple) -> tuple:
    """Values, or mappings of one name each, of which none comes twice; raises ValueError for one that does."""
    names = [next(iter(value)) if isinstance(value, dict) else value for value in values]
    twice = [name for number, name in enumerate(names) if name in names[:number]]
    if twice:
        raise ValueError(f"{twice[0]!r} comes twice")
    return values


# Of a tuple, in this order: pydantic puts a bound that follows a validator on its result, not on the tuple.
SOME = Field(min_length=1, json_schema_extra={"uniqueItems": True})
Unlike = AfterValidator(unlike)
