import numpy as np
import pytest
import torch

from hsfm.heads.head import Head
from hsfm.heads.held_out import fit_chosen, joined
from hsfm.heads.logistic_regression import halves
from hsfm.heads.scorer import Scorer
from tests.conftest import planted


@pytest.fixture(scope="module")
def splits():
    return planted("train", [40, 4, 4, 40], seed=0), planted("val", [20, 20, 20, 20], seed=1)


class Recorder:
    """A fitter whose candidates are angles: a head that looks at the first two features only."""

    def __init__(self):
        self.calls = []

    def __call__(self, rows, candidates, rng):
        self.calls.append((rows.image_id, tuple(candidates), rng.random()))
        angles = torch.tensor(candidates, dtype=torch.float32)
        row = torch.zeros(len(angles), rows.features.shape[1])
        row[:, 0], row[:, 1] = angles.cos(), angles.sin()
        return Head(torch.stack([-row, row], 1), torch.zeros(len(angles), 2))


def chosen(splits, on, **how):
    train, val = splits
    fit = Recorder()
    given = {"part": val.y.numpy(), "seeds": (3, 4, 5), "scorer": Scorer(val, "worst_group"), "called": "test"} | how
    return fit_chosen(train, val, (0.0, 1.5, 3.1), fit, on=on, **given), fit.calls


def best_on(val, rows):
    scorer, fit = Scorer(val, "worst_group"), Recorder()
    scores = scorer(fit(val, (0.0, 1.5, 3.1), np.random.default_rng(0)).logits(val.features[rows]), rows)
    return (0.0, 1.5, 3.1)[int(scores.argmax())]


def test_on_val_the_choice_is_made_on_the_half_that_no_candidate_was_fitted_to(splits):
    _, val = splits
    (head, seeds, picked), calls = chosen(splits, "val")
    assert len(head.weight) == 3
    assert seeds == (3, 4, 5)
    tries = [call for call in calls if len(call[1]) == 3]
    for seed, best, (ids, _, _) in zip(seeds, picked, tries, strict=True):
        fit_rows, held_out = (torch.from_numpy(r) for r in halves(val.y.numpy(), np.random.default_rng(seed)))
        assert ids == val.take(fit_rows).image_id
        assert best == best_on(val, held_out)
    finals = [call for call in calls if len(call[1]) == 1]
    assert all(ids == val.image_id for ids, _, _ in finals)
    assert len(finals) == len(set(picked)), "equal choices share one fit"


def test_a_fit_that_draws_is_made_for_every_seed(splits):
    (_, seeds, picked), calls = chosen(splits, "val", draws=True)
    assert sum(len(call[1]) == 1 for call in calls) == len(picked) == 3
    (_, seeds, _), _ = chosen(splits, "train", draws=True)
    assert seeds == (3, 4, 5)


def test_on_train_validation_chooses_and_there_is_one_head(splits):
    train, val = splits
    (head, seeds, picked), calls = chosen(splits, "train")
    assert len(head.weight) == 1
    assert seeds == (3,)
    assert [ids for ids, _, _ in calls] == [train.image_id]
    assert picked == [best_on(val, torch.arange(len(val.y)))]


def test_on_both_train_and_half_of_val_teach(splits):
    train, val = splits
    (_, _, _), calls = chosen(splits, "both", seeds=(3,))
    fit_rows, _ = halves(val.y.numpy(), np.random.default_rng(3))
    half = val.take(torch.from_numpy(fit_rows))
    assert [ids for ids, _, _ in calls] == [train.image_id + half.image_id, train.image_id + val.image_id]
    both = joined(train, val)
    assert torch.equal(both.group, torch.cat([train.group, val.group]))
