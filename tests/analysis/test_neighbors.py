import pytest
import torch

from hsfm.analysis import neighbors
from hsfm.analysis.neighbors import nearest


def rows(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).relu()


def by_hand(queries, candidates, k, own=None):
    distance = torch.cdist(queries.double(), candidates.double(), compute_mode="donot_use_mm_for_euclid_dist")
    if own is not None:
        known = (own >= 0).nonzero()[:, 0]
        distance[known, own[known]] = torch.inf
    return distance.argsort(dim=1, stable=True)[:, :k]


@pytest.mark.parametrize(("m", "n", "d", "k"), [(50, 300, 16, 5), (130, 5, 4, 5), (3, 200, 64, 1), (40, 6000, 512, 5)])
def test_neighbors_are_those_of_all_distances(monkeypatch, m, n, d, k):
    """For blocks of any size."""
    monkeypatch.setattr(neighbors, "QUERIES_AT_ONCE", 20)
    monkeypatch.setattr(neighbors, "ROWS_AT_ONCE", 37)
    queries, candidates = rows(m, d, 1), rows(n, d)
    assert torch.equal(nearest(queries, candidates, k), by_hand(queries, candidates, k))


def test_a_query_that_is_a_row_leaves_itself_out():
    candidates = rows(100, 12)
    own = torch.tensor([3, 99, -1])
    queries = torch.stack([candidates[3], candidates[99], candidates[5]])
    found = nearest(queries, candidates, 4, own=own)
    assert torch.equal(found, by_hand(queries, candidates, 4, own))
    assert found[2, 0] == 5


def test_small_differences_far_from_the_origin_are_told_apart():
    generator = torch.Generator().manual_seed(0)
    side = torch.where(torch.arange(400) % 2 == 0, 1.0, -1.0)[:, None]
    candidates = 100 * side + 0.01 * torch.randn(400, 6, generator=generator)
    queries = 100 + 0.01 * torch.randn(9, 6, generator=generator)
    assert torch.equal(nearest(queries, candidates, 5), by_hand(queries, candidates, 5))


def test_more_neighbors_than_rows_is_an_error():
    with pytest.raises(ValueError, match="neighbors: 5 were asked for, but there are 4 rows to choose from"):
        nearest(rows(2, 3), rows(4, 3), 5)
