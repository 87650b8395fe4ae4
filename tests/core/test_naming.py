import numpy as np
import pytest
import torch

from hsfm.core.naming import naming
from hsfm.data.labels import require_filled


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        (
            lambda: np.linalg.cholesky(-np.eye(2)),
            "mine: LinAlgError in numpy.linalg.*: Matrix is not positive",
        ),
        (lambda: torch.linalg.cholesky(-torch.eye(2)), "mine: _LinAlgError in"),
        (lambda: np.concatenate([]), "mine: ValueError in .*: need at least one array to concatenate"),
        (lambda: torch.empty(2**50), None),  # RuntimeError, as of any mistake with tensors
        (lambda: {}["a"], None),
    ],
)
def test_errors_of_libraries_name_the_data_and_mistakes_in_code_stay(fails, message):
    if message is None:
        with pytest.raises((RuntimeError, KeyError)), naming("mine"):
            fails()
        return
    with pytest.raises(ValueError, match=f"^{message}") as caught, naming("mine"):
        np.array(fails())
    assert caught.value.__cause__ is not None, "its traceback is kept"


def test_an_error_of_ours_is_named_already():
    import pandas as pd

    with pytest.raises(ValueError, match=r"^column 'y' is empty in row 1"), naming("mine"):
        require_filled(pd.Series([None]), "column 'y'")
