"""Settings of a wrong type or out of bounds are named by pydantic, field by field."""

import pytest
from pydantic import ValidationError

from hsfm.analysis.sweep import SweepSettings
from hsfm.analysis.validation_bias import ValidationBiasSettings
from hsfm.core.device import ComputeSettings
from hsfm.features.embeddings import EmbeddingSettings
from hsfm.heads.erm_head import ERMHeadSettings
from hsfm.heads.hard_set import HardSetSettings
from hsfm.methods import afr, dfr, hsfm, llr

BAD = [
    (hsfm.Settings, {"support_steps": -1}, "greater than or equal to 0"),
    (hsfm.Settings, {"outer_lr": float("inf")}, "finite number"),
    (hsfm.Settings, {"refresh": "step"}, "'epoch' or 'never'"),
    (hsfm.Settings, {"select_by": "luck"}, "'hard_loss'"),
    (dfr.Settings, {"select_by": "hard_loss"}, "'worst_group', 'worst_class', 'average', 'inferred_group'"),
    (llr.Settings, {"grid": ()}, "at least 1 item"),
    (afr.Settings, {"penalties": (-1.0,)}, "greater than or equal to 0"),
    (ERMHeadSettings, {"C": 0.0}, "greater than 0"),
    (HardSetSettings, {"hard_per_class": 0}, "greater than 0"),
    (ComputeSettings, {"precision": "half"}, "'auto', 'float32' or 'bfloat16'"),
    (EmbeddingSettings, {"train": ""}, "at least 1 character"),
    (SweepSettings, {"seeds": (1, 1)}, "1 comes twice"),
    (ValidationBiasSettings, {"agreement": (1.5,)}, "less than or equal to 1"),
]


@pytest.mark.parametrize(("kind", "values", "said"), BAD)
def test_a_setting_out_of_bounds_is_named(kind, values, said):
    with pytest.raises(ValidationError) as caught:
        kind(**values)
    errors = caught.value.errors()
    assert {error["loc"][0] for error in errors if error["loc"]} <= set(values)
    assert any(said in error["msg"] for error in errors)


@pytest.mark.parametrize("kind", dict.fromkeys(kind for kind, _, _ in BAD))
def test_settings_have_defaults_and_do_not_change(kind):
    settings = kind()
    name = next(iter(kind.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, name, getattr(settings, name))
    assert kind(**settings.model_dump(mode="json")) == settings, "as jobs get them"
    assert all(field.description for field in kind.model_fields.values())
