from math import factorial

import numpy as np
import pytest

from hsfm.heads.inferred_groups.infer import Clouds
from hsfm.heads.inferred_groups.two_clouds import (
    along,
    best_bins,
    count,
    law,
    p_mirror,
    p_of_division,
    p_of_folds,
    p_one_cloud,
    p_two_clouds,
)
from tests.heads.inferred_groups.rows import one_cloud, two_clouds

HOW = {"folds": 4, "rounds": 4, "shrinkage": 0.3}


@pytest.mark.parametrize(("n", "t"), [(7, 6), (7, 5), (12, 20), (4, 0), (4, 8), (0, 0)])
def test_the_law_is_that_of_all_triples_with_these_sums(n, t):
    weights = {
        b: 1 / (factorial(n - b - c) * factorial(b) * factorial(c))
        for c in range(n + 1)
        if 0 <= (b := t - 2 * c) <= n - c
    }
    expected = [weights[b] / sum(weights.values()) for b in sorted(weights)]
    np.testing.assert_allclose(law(n, t), expected, rtol=1e-12)


def test_the_law_is_that_of_simulated_counts_whatever_the_ratio_of_the_masses():
    rng = np.random.default_rng(0)
    n, t = 20, 14
    for r in (0.3, 0.6, 1.0):
        counts = rng.multinomial(n, np.array([1, r, r * r]) / (1 + r + r * r), size=400_000)
        b = counts[counts @ [0, 1, 2] == t, 1]
        seen = np.bincount((b - t % 2) // 2, minlength=len(law(n, t))) / len(b)
        assert np.abs(seen - law(n, t)).max() < 4 * 0.5 / np.sqrt(len(b))


@pytest.mark.parametrize(
    ("masses", "rejects"), [((0.6, 0.3, 0.1), False), ((0.64, 0.27, 0.09), False), ((0.6, 0.15, 0.25), True)]
)
def test_pooled_p_keeps_its_level_where_b2_is_at_least_ac(masses, rejects):
    rng = np.random.default_rng(1)
    p = [p_one_cloud(rng.multinomial(40, np.array(masses) / sum(masses), size=4)) for _ in range(500)]
    share = np.mean(np.array(p) <= 0.05)
    assert share > 0.9 if rejects else share < 0.05 + 2 * np.sqrt(0.05 * 0.95 / 500)


def test_at_the_boundary_p_is_as_good_as_uniform():
    rng = np.random.default_rng(2)
    masses = np.array([1, 0.4, 0.16]) / 1.56
    p = np.array([p_one_cloud(rng.multinomial(300, masses, size=4)) for _ in range(800)])
    assert abs(np.mean(p <= 0.05) - 0.05) < 0.02
    assert abs(np.mean(p <= 0.5) - 0.5) < 0.06


def test_no_rows_are_no_evidence():
    assert p_one_cloud(np.zeros((4, 3), dtype=int)) == 1
    assert p_mirror(0, 0) == 1
    assert p_mirror(5, 0) == pytest.approx(1 / 32)


def test_u_is_0_at_the_own_cloud_and_1_at_the_center_of_the_others():
    rng = np.random.default_rng(3)
    means, root = rng.normal(size=(3, 2)), rng.normal(size=(2, 2))
    clouds = Clouds(means, root @ root.T + np.eye(2), np.full((3, 3), 1 / 3))
    y = np.arange(3)
    np.testing.assert_allclose(along(clouds, means, y), 0, atol=1e-12)
    np.testing.assert_allclose(along(clouds, means[[[1, 2], [0, 2], [0, 1]]].mean(1), y), 1)


def test_bins_straddle_the_gap_of_the_mixture():
    clouds = Clouds(np.array([[0.0], [6.0]]), np.eye(1), np.array([[0.9, 0.1], [0.1, 0.9]]))
    start, width = best_bins(clouds, np.array([500, 500]))
    assert start + width < 0.55 < start + 2 * width
    assert count(
        np.array([start + 0.01, start + width + 0.01, start + 2.5 * width, 9.0]), np.array([start, width])
    ).tolist() == [1, 1, 1]


@pytest.mark.parametrize("power", [0, 1])
@pytest.mark.parametrize("name", ["gaussian", "logistic", "uniform", "t5"])
def test_it_stays_shut_on_one_cloud(name, power):
    """At most the number of a binomial's upper 0.1 % at the stated 5 %, of single divisions: the median is safer."""
    p = [p_of_division(*one_cloud(name, draw, n=600, d=8), seed=draw, **HOW)[1 - power] for draw in range(60)]
    assert np.sum(np.array(p) <= 0.05) <= 9


def test_it_opens_on_two_clouds_and_the_nearer_they_are_the_more_rarely():
    p = {
        gap: [p_of_division(*two_clouds(gap, draw, minority=0.06)[:2], seed=draw, **HOW) for draw in range(12)]
        for gap in (3.0, 5.0, 7.0)
    }
    shares = np.array([np.mean(np.array(p[gap]) <= 0.05, axis=0) for gap in (3.0, 5.0, 7.0)])
    assert (np.diff(shares, axis=0) >= 0).all()
    assert (shares[0] < 0.5).all()
    assert (shares[2] == 1).all()


def test_several_divisions_count_twice_their_median_and_two_powers_twice_the_lower():
    x, y, _ = two_clouds(7.0, 0)
    p = np.array([[max(p_of_folds(x, y, seed=seed, temper=power, **HOW)) for power in (1.0, 0.0)] for seed in range(3)])
    assert p_two_clouds(x, y, seeds=3, **HOW) == min(4 * sorted(of_power)[1] for of_power in p.T)
    assert p_two_clouds(*one_cloud("gaussian", 0, n=600, d=8), seeds=3, **HOW) == 1
