import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from hsfm.heads.inferred_groups.infer import fit_clouds, infer, probes, stratified_folds
from tests.heads.inferred_groups.rows import two_clouds


def inferred(x, y, seed=0, rounds=4):
    folds = stratified_folds(y, 4, np.random.default_rng(seed))
    return infer(x, y, folds=folds, rounds=rounds, shrinkage=0.3)


def test_effects_are_those_of_least_squares_on_rows_of_known_groups():
    x, y, attribute = two_clouds(4.0, 0, minority=0.2)
    q = np.eye(2)[attribute]
    attribute_probe, class_probe = probes(x.T @ x, x, y, q, 1e-6)
    design = np.column_stack([np.ones(len(y)), y, attribute])
    effects, *_ = np.linalg.lstsq(design, x, rcond=None)
    residual = x - design @ effects
    for probe, effect in ((attribute_probe, effects[2]), (class_probe, effects[1])):
        expected = np.linalg.solve(residual.T @ residual / len(x), effect)
        cosine = probe.direction[:, 0] @ expected / np.linalg.norm(probe.direction[:, 0]) / np.linalg.norm(expected)
        assert abs(cosine) > 0.999  # a ridge of one row lies on the attribute's


@pytest.mark.parametrize(("classes", "n"), [(2, 800), (3, 1500), (4, 2400)])
@pytest.mark.parametrize("minority", [0.05, 0.3])
def test_it_recovers_planted_groups(classes, n, minority):
    x, y, attribute = two_clouds(8.0, 1, n=n, minority=minority if classes == 2 else 0.1, classes=classes)
    found = inferred(x, y)
    density = found.clouds.log_density(found.scores)
    assert balanced_accuracy_score(attribute, density.argmax(1)) > 0.97
    own = found.clouds.posterior(found.scores, y)[np.arange(n), y]
    assert roc_auc_score(attribute != y, -own) > 0.99
    shares = [(attribute[y == k] == k).mean() for k in range(classes)]
    np.testing.assert_allclose(found.clouds.prior.diagonal(), shares, atol=0.03)
    assert np.isclose(found.clouds.prior.sum(1), 1, atol=1e-4).all()


def test_a_fold_is_scored_by_a_probe_that_has_not_seen_it():
    x, y, _ = two_clouds(6.0, 3)
    folds = stratified_folds(y, 4, np.random.default_rng(0))
    how = {"folds": folds, "rounds": 1, "shrinkage": 0.3, "start": np.eye(2)[y] * 0.9 + 0.05}
    scores, others = infer(x, y, **how).scores, folds != 0
    moved = infer(np.where(others[:, None], x, x + 9.0), y, **how).scores
    shift = (moved - scores)[~others]
    assert np.ptp(shift) < 1e-9, "the same probe, and all rows moved alike"
    assert not np.allclose(moved[others], scores[others]), "the others learn from it"


def test_a_still_mixture_fits_shares_alone():
    x, y, _ = two_clouds(7.0, 4, minority=0.05)
    clouds = inferred(x, y).clouds
    other_x, other_y, attribute = two_clouds(7.0, 4, minority=0.4)
    z = inferred(x, y).attribute.scores(other_x)
    refitted = fit_clouds(z, other_y, np.full((len(other_y), 2), 0.5), still=clouds)
    np.testing.assert_array_equal(refitted.means, clouds.means)
    shares = [(attribute[other_y == k] == k).mean() for k in (0, 1)]
    np.testing.assert_allclose(refitted.prior.diagonal(), shares, atol=0.05)


def test_folds_hold_every_class_and_differ_by_seed():
    y = np.repeat([0, 1, 2], [40, 13, 7])
    folds = stratified_folds(y, 4, np.random.default_rng(0))
    for label, n in enumerate((40, 13, 7)):
        counts = np.bincount(folds[y == label], minlength=4)
        assert counts.min() >= n // 4
        assert counts.max() <= -(-n // 4)
    assert (folds != stratified_folds(y, 4, np.random.default_rng(1))).any()
