import numpy as np
import pytest

from hsfm.heads.inferred_groups.guard import p_wrong_labels


def rows(seed, real, n=400):
    """Densities of two sure clouds, class scores, and classes: 10 % of a cloud is of the other class, or labeled so."""
    rng = np.random.default_rng(seed)
    cloud = np.arange(n) % 2
    y = np.where(rng.uniform(size=n) < 0.1, 1 - cloud, cloud)
    score = rng.normal(size=n) + (2.0 * (y - 0.5) if real else 0.0)
    return np.where(np.eye(2)[cloud] > 0, 0.0, -20.0), np.column_stack([-score, score]), y


def test_wrong_labels_pass_at_the_rate_of_the_level():
    p = np.array([p_wrong_labels(*rows(seed, real=False)) for seed in range(600)])
    assert abs(np.mean(p <= 0.05) - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 600)


def test_a_real_minority_passes():
    assert max(p_wrong_labels(*rows(seed, real=True)) for seed in range(50)) < 0.001


@pytest.mark.parametrize("density", ["all in one class", "unsure"])
def test_clouds_without_both_classes_are_no_evidence(density):
    log_density, score, y = rows(0, real=True)
    if density == "unsure":
        log_density = log_density / 10
    else:
        y = log_density.argmax(1)
    assert p_wrong_labels(log_density, score, y) == 1
