import numpy as np
import pytest
from scipy.stats import fisher_exact

from hsfm.features.embeddings import NotApplicable
from hsfm.heads.inferred_groups.hints import p_unrelated
from hsfm.heads.supervision import Labeler


def test_within_one_class_it_is_fishers_exact_test():
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=(2, 30)) < [[0.5], [0.3]]
    table = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    assert p_unrelated(a, b, np.zeros(30, int)) == pytest.approx(fisher_exact(table, alternative="greater")[1])


def test_of_several_classes_it_is_the_share_of_shuffles_within_them_that_agree_as_much():
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1], [12, 20])
    a, b = rng.uniform(size=(2, 32)) < 0.4
    seen, more = (a & b).sum(), 0
    for _ in range(20_000):
        shuffled = np.concatenate([rng.permutation(b[:12]), rng.permutation(b[12:])])
        more += (a & shuffled).sum() >= seen
    assert p_unrelated(a, b, y) == pytest.approx(more / 20_000, abs=0.015)
    assert p_unrelated(np.zeros(32, bool), b, y) == 1


def test_no_more_labels_than_allowed_and_none_that_is_unknown(splits):
    val = splits["val"]
    label_of, rows = Labeler(val, 2), np.array([(val.y == 0).nonzero()[n, 0] for n in range(3)])
    assert (label_of(rows[:2]) == val.attribute.numpy()[rows[:2]]).all()
    assert (label_of(rows[:2]) == val.attribute.numpy()[rows[:2]]).all(), "the same rows are no further ones"
    with pytest.raises(ValueError, match="3 group labels of a class were asked for; hints allows 2"):
        label_of(rows[2:])
    with pytest.raises(NotApplicable, match=str(val.image_id[rows[0]])):
        Labeler(val.without_attributes(), 2)(rows[:1])
