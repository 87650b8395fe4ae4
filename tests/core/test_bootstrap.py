import numpy as np
import pytest
from scipy import stats

from hsfm.core import bootstrap
from hsfm.core.bootstrap import difference_interval, interval, lowest_interval, resample


def drawn(rng, sizes, truth) -> tuple[np.ndarray, np.ndarray]:
    """Whether heads are right on images that share what is hard about them. truth: accuracies `[g h]`."""
    group = np.repeat(np.arange(len(sizes)), sizes)
    shared = rng.random(len(group))[:, None]
    own = rng.random((len(group), truth.shape[1]))
    return np.where(rng.random(own.shape) < 0.7, shared, own) < truth[group], group


def observed(correct, group) -> np.ndarray:
    return np.stack([correct[group == g].mean(0) for g in np.unique(group)])


@pytest.fixture
def sample():
    rng = np.random.default_rng(1)
    return drawn(rng, (60, 300, 40), np.array([[0.9, 0.8], [0.7, 0.75], [0.95, 0.9]]))


def test_against_drawing_the_images_themselves(sample):
    """The naive bootstrap: indices within each group, with replacement."""
    correct, group = sample
    rng = np.random.default_rng(0)
    naive = []
    for g in range(3):
        rows = np.flatnonzero(group == g)
        naive.append(correct[rng.choice(rows, size=(4000, len(rows)))].mean(1))
    naive = np.stack(naive, axis=1)
    ours = resample(correct, group, resamples=4000)
    assert ours.shape == naive.shape
    for one, other in ((ours, naive), (ours.min(1), naive.min(1)), (ours @ [1.0, -1.0], naive @ [1.0, -1.0])):
        assert one.mean(0) == pytest.approx(other.mean(0), abs=0.003)
        assert one.std(0) == pytest.approx(other.std(0), rel=0.05)
    both = [np.cov(draws[:, 1].T)[0, 1] for draws in (ours, naive)]  # heads share their resamples
    assert both[0] == pytest.approx(both[1], rel=0.1)
    assert both[0] > 0


def test_against_scipy(sample):
    correct, group = sample
    one = correct[group == 1, 0].astype(float)
    theirs = stats.bootstrap((one,), np.mean, method="percentile", n_resamples=4000, rng=0).confidence_interval
    ours = interval(resample(correct, group, resamples=4000)[:, 1, 0])
    assert ours == pytest.approx(list(theirs), abs=0.004)


def test_the_lowest_group_has_its_own_interval_where_it_is_clearly_lowest(sample):
    correct, group = sample
    clearly = resample(correct, group)[:, 1, 0]
    found = lowest_interval(resample(correct, group)[:, :, :1], observed(correct, group)[:, :1], np.ones(1))
    assert found == pytest.approx(interval(clearly), abs=1e-12)


def test_the_same_seed_gives_the_same_draws_whatever_is_in_memory_at_once(sample, monkeypatch):
    correct, group = sample
    before = resample(correct, group, resamples=50)
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 1)
    assert np.array_equal(before, resample(correct, group, resamples=50))
    assert not np.array_equal(before, resample(correct, group, resamples=50, seed=1))


def test_a_group_keeps_its_size_and_one_without_a_mistake_is_right_always():
    group = np.repeat([3, 7], [5, 8])
    correct = np.ones((13, 2), dtype=bool)
    correct[0] = False
    draws = resample(correct, group, resamples=200)
    assert draws.shape == (200, 2, 2)
    assert (draws[:, 1] == 1).all()
    assert np.array_equal(draws[:, 0] * 5, np.rint(draws[:, 0] * 5))
    assert np.array_equal(draws[..., 0], draws[..., 1])  # equal heads differ in no resample


def test_bounds_of_several_heads_hold_what_was_observed():
    """Two heads with different worst groups: their mean lies below each group's mean over heads."""
    rng = np.random.default_rng(2)
    correct, group = drawn(rng, (100, 100), np.array([[0.7, 0.9], [0.9, 0.7]]))
    accuracy = observed(correct, group)
    low, high = lowest_interval(resample(correct, group), accuracy, np.full(2, 0.5))
    assert low < accuracy.min(0).mean() < high
    assert high < 0.8


WATERBIRDS, CELEBA = (2255, 2255, 642, 642), (9767, 7535, 2480, 180)
CASES = {  # sizes, accuracies of two heads by group, and the coverage of lowest_interval at least
    "one is clearly lowest": (WATERBIRDS, [[0.99, 0.96], [0.75, 0.95], [0.8, 0.93], [0.95, 0.92]], 0.93),
    "the small ones are level": (WATERBIRDS, [[0.96, 0.96], [0.95, 0.94], [0.92, 0.92], [0.92, 0.91]], 0.93),
    "all are level": (WATERBIRDS, [[0.93, 0.93]] * 4, 0.88),
    "a very small one": (CELEBA, [[0.92, 0.98], [0.92, 0.98], [0.92, 0.85], [0.89, 0.6]], 0.91),
    "few images": ((30, 30, 30, 30), [[0.9, 0.9], [0.8, 0.8], [0.8, 0.8], [0.95, 0.95]], 0.93),
}


@pytest.mark.parametrize("case", CASES)
def test_coverage(case):
    """Of 95 %, in 300 simulations: intervals of the worst group and of the paired difference of two heads."""
    sizes, truth, least = CASES[case]
    truth = np.array(truth)
    rng = np.random.default_rng(0)
    held, gaps, lengths = [], [], []
    for number in range(300):
        correct, group = drawn(rng, sizes, truth)
        draws, accuracy = resample(correct, group, resamples=400, seed=number), observed(correct, group)
        low, high = lowest_interval(draws[..., :1], accuracy[:, :1], np.ones(1))
        lowest = draws.min(1)
        gap = accuracy.min(0) @ [1.0, -1.0]
        left, right = difference_interval(lowest @ [1.0, -1.0], float(gap))
        held.append((low <= truth.min(0)[0] <= high, left <= truth.min(0) @ [1.0, -1.0] <= right))
        gaps.append(gap)
        lengths.append(right - left)
    worst, difference = np.mean(held, axis=0)
    assert least <= worst <= 0.995
    assert difference >= 0.93
    # and yet not much longer than need be
    assert np.mean(lengths) < 1.4 * 2 * 1.96 * np.std(gaps)
