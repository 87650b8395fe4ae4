from fractions import Fraction

import numpy as np
import pytest
import torch

from hsfm.data.table import is_minority


@pytest.mark.parametrize("seed", range(3))
def test_the_attribute_is_rarer_within_the_class_than_overall(seed):
    counts = np.random.default_rng(seed).integers(0, 9, (3, 4)) + 1
    found, total = is_minority(counts), int(counts.sum())
    for y, a in np.ndindex(counts.shape):
        within = Fraction(int(counts[y, a]), int(counts[y].sum()))
        assert found[y, a] == (within < Fraction(int(counts[:, a].sum()), total))
    assert torch.equal(is_minority(torch.from_numpy(counts)), torch.from_numpy(found))


def test_equal_shares_make_no_minority():
    assert not is_minority(np.array([[1, 2], [3, 6], [7, 14]])).any()
    assert is_minority(np.array([[1, 2], [3, 6], [7, 13]]))[:, 0].tolist() == [True, True, False]
