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


ANGLES = (0.0, 1.5, 3.1)


class Recorder:
    """A fitter whose candidates are angles: heads that look at the first two features only."""

    def __init__(self):
        self.calls = []

    def __call__(self, rows, candidates, rng):
        self.calls.append((rows.image_id, [angle for (angle,) in candidates]))
        angles = torch.tensor(candidates).squeeze(1)
        row = torch.zeros(len(angles), rows.features.shape[1])
        row[:, 0], row[:, 1] = angles.cos(), angles.sin()
        return Head(torch.stack([-row, row], 1), torch.zeros(len(angles), 2))


def chosen(splits, on, **how):
    train, val = splits
    fit = Recorder()
    given = {"part": val.y.numpy(), "seeds": (3, 4, 5), "scorer": Scorer(val, "worst_group"), "called": "test"} | how
    return fit_chosen(train, val, {"angle": ANGLES}, fit, on=on, **given), fit.calls


def best_on(val, rows):
    tried = Recorder()(val, [(angle,) for angle in ANGLES], None)
    return ANGLES[int(Scorer(val, "worst_group")(tried.logits(val.features[rows]), rows).argmax())]


def test_on_val_the_choice_is_made_on_the_half_that_no_candidate_was_fitted_to(splits):
    _, val = splits
    found, calls = chosen(splits, "val")
    assert len(found.head.weight) == 3
    assert found.seeds == (3, 4, 5)
    tries = [ids for ids, candidates in calls if len(candidates) == 3]
    for seed, best, ids in zip(found.seeds, found.settings["angle"], tries, strict=True):
        fit_rows, held_out = (torch.from_numpy(r) for r in halves(val.y.numpy(), np.random.default_rng(seed)))
        assert ids == val.take(fit_rows).image_id
        assert best == best_on(val, held_out)
    finals = [ids for ids, candidates in calls if len(candidates) == 1]
    assert finals == [val.image_id] * len(set(found.settings["angle"])), "equal choices share one fit"
    assert found.chosen_by == "angle by the worst group of one half of validation"


def test_a_fit_that_draws_is_made_for_every_seed(splits):
    _, calls = chosen(splits, "val", draws=True)
    assert sum(len(candidates) == 1 for _, candidates in calls) == 3
    assert chosen(splits, "train", draws=True)[0].seeds == (3, 4, 5)


def test_on_train_validation_chooses_and_there_is_one_head(splits):
    train, val = splits
    found, calls = chosen(splits, "train")
    assert found.seeds == (3,)
    assert len(found.head.weight) == 1
    assert [ids for ids, _ in calls] == [train.image_id]
    best = best_on(val, torch.arange(len(val.y)))
    assert found.settings == {"angle": [best]}
    assert found.summary == f"angle {best:g}"
    assert found.chosen_by == "angle by the worst group of validation"


def test_on_both_train_and_half_of_val_teach(splits):
    train, val = splits
    _, calls = chosen(splits, "both", seeds=(3,))
    half = val.take(torch.from_numpy(halves(val.y.numpy(), np.random.default_rng(3))[0]))
    assert [ids for ids, _ in calls] == [train.image_id + half.image_id, train.image_id + val.image_id]
    both = joined(train, val)
    assert torch.equal(both.group, torch.cat([train.group, val.group]))
