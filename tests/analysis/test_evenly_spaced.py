import numpy as np
import pytest

from hsfm.analysis.evenly_spaced import evenly_spaced


@pytest.mark.parametrize(("n", "most"), [(1, 4), (3, 4), (4, 4), (10, 4), (1000, 7)])
def test_both_ends_and_equal_gaps(n, most):
    found = evenly_spaced(n, most)
    assert len(found) == min(n, most)
    assert (found[0], found[-1]) == (0, n - 1)
    if len(found) > 1:
        gaps = np.diff(found)
        assert gaps.max() - gaps.min() <= 1
