import logging

import numpy as np
import pytest
import torch

from hsfm.features.embeddings import NotApplicable
from hsfm.heads import tuning
from hsfm.heads.hard_training import HardTrainingSettings, TuneSettings
from hsfm.heads.scorer import Scorer
from hsfm.heads.tuning import choose

RATES = (0.01, 0.02, 0.04)


@pytest.fixture(autouse=True)
def _an_epoch_stands_for_itself(monkeypatch):
    """tests/methods/hsfm/test_fit.py has the oracle of the epochs nearby."""
    monkeypatch.setattr(tuning, "REACH", 0)


def chosen(splits, accuracy, rule="average", diverged=None, **grid):
    """The choice where point p's heads are right on a share accuracy(p, epoch) of the rows, on either half."""
    val = splits["val"]
    asked = []

    def start(points, per_class, halves):
        order, epochs = torch.randperm(len(val.y), generator=torch.Generator().manual_seed(0)), [0]
        asked.append((points, per_class, halves))

        def advance(count):
            classes = torch.empty(count, len(halves), len(points), len(val.y), dtype=torch.int16)
            for epoch in range(count):
                for number in range(len(points)):
                    right = round(accuracy(len(asked) - 1, number, epochs[0] + epoch + 1) * len(val.y))
                    wrong = val.y.clone()
                    wrong[order[right:]] = 1 - wrong[order[right:]]
                    classes[epoch, :, number] = wrong
            epochs[0] += count
            sound = torch.ones(classes.shape[:3], dtype=torch.bool)
            if diverged is not None:
                sound[:, 0, diverged] = False
            return classes, sound

        return advance

    tune = TuneSettings(**{"inner_lr": RATES, "hard_share": (1.0,), "inner_steps": (3,), "epochs": 60, **grid})
    scorer = Scorer(val, rule)
    choice = choose(
        splits["train"],
        val,
        settings=HardTrainingSettings(tune=tune),
        scorer=scorer,
        start=start,
        called="HSFM",
    )
    return choice, asked, scorer


def peak(at, height, wide=40):
    return lambda epoch: height - abs(epoch - at) / wide / 10


def test_the_highest_smoothed_curve_wins_and_counts_are_shares_of_each_class(splits):
    curves = [peak(20, 0.7), peak(30, 0.8), peak(25, 0.75)]
    choice, asked, scorer = chosen(splits, lambda batch, number, epoch: curves[number](epoch))
    assert choice.epoch == choice.settings.epochs == choice.keep_from == 30
    assert choice.table.loc[choice.table["chosen"], "held_out"].item() == pytest.approx(
        0.8 - np.mean(np.abs(np.arange(-5, 6))) / 400, abs=0.005
    )
    assert choice.at_edge == ()
    assert choice.table["chosen"].tolist() == [False, True, False]
    assert not choice.table["epoch"].equals(choice.table["held_out"])
    spread = float((splits["train"].features - splits["train"].features.mean(0)).abs().mean())
    assert choice.settings.inner_lr == pytest.approx(0.02 / 12 / spread)
    assert choice.settings.tune is None
    (points, per_class, halves), y = asked[0], splits["val"].y
    of_halves = torch.stack([torch.bincount(y[half.rows]) for half in halves])
    assert per_class == tuple(of_halves.amin(0).tolist())
    assert choice.hard_per_class == tuple(torch.bincount(y).tolist())
    right = (choice.held_out.classes == y).double().mean(1)
    assert right.tolist() == pytest.approx([0.8] * 8, abs=0.005)  # two ways to halve, four to split
    assert scorer.asked
    assert [settings.epochs for settings in points] == [60] * 3


def test_of_points_that_rows_hardly_tell_apart_the_middle_one_is_taken_and_of_shares_the_largest(splits):
    heights = {(0, 0): 0.79, (0, 1): 0.785, (1, 0): 0.785, (1, 1): 0.79, (1, 2): 0.77}
    choice, asked, _ = chosen(
        splits, lambda *place: peak(30, heights.get(place[:2], 0.7))(place[2]), hard_share=(1.0, 0.3)
    )
    assert len(asked) == 2
    assert choice.table.loc[choice.table["chosen"], ["inner_lr", "hard_share"]].values.tolist() == [[0.02, 1.0]]


@pytest.mark.parametrize(
    ("at", "height", "edge", "said"),
    [
        (30, (0.9, 0.7, 0.7), ("inner_lr",), "the choice lies at the edge of inner_lr: widen tune/inner_lr"),
        (60, (0.7, 0.9, 0.7), ("epochs",), "the choice lies at the edge of epochs: widen tune/epochs"),
        (30, (0.7, 0.8, 0.7), (), "95.0 % on the rows that taught, 79.3 [74-84] % on held-out ones: expect the lower"),
        (30, (0.7, 0.9, 0.7), (), ""),
    ],
)
def test_a_choice_to_distrust_is_one_warning(splits, caplog, at, height, edge, said):
    choice, *_, scorer = chosen(splits, lambda batch, number, epoch: peak(at, height[number])(epoch))
    assert choice.at_edge == edge
    with caplog.at_level(logging.WARNING):
        choice.warn("HSFM", [0.94, 0.96])
    assert len(caplog.messages) == bool(said)
    assert all(said in line for line in caplog.messages)
    assert ("the last of 60" in choice.remark([0.9], scorer)) == (edge == ("epochs",))


def test_training_ends_when_no_point_has_improved_for_long(splits):
    choice, *_ = chosen(splits, lambda batch, number, epoch: peak(15, 0.8)(epoch), epochs=200, patience=30)
    assert choice.epochs == 60  # looked at every CHUNK epochs
    assert choice.epoch == 15


def test_a_point_that_diverges_on_one_half_is_not_taken(splits):
    choice, *_ = chosen(splits, lambda batch, number, epoch: 0.9 - 0.1 * number, diverged=0)
    assert choice.table["held_out"].tolist()[0] == -np.inf
    assert choice.settings.inner_lr == choice.settings.inner_lr
    with pytest.raises(ValueError, match="HSFM: every point of tune diverged; lower tune/inner_lr"):
        chosen(splits, lambda *_: 0.9, diverged=slice(None))


@pytest.mark.parametrize("rule", ["worst_group", "worst_class"])
def test_halves_hold_every_part_alike_and_each_row_is_held_out_once(splits, rule):
    val = splits["val"]
    scorer = Scorer(val, rule)
    first, second = tuning._halves(val.without_attributes(), scorer, 1)
    assert torch.equal(first.taught, ~second.taught)
    part = val.group if rule == "worst_group" else val.y
    counts = torch.stack([torch.bincount(part[half.rows]) for half in (first, second)])
    assert (counts[0] - counts[1]).abs().max() <= 1
    other = tuning._halves(val, scorer, 2)[0]
    assert not torch.equal(other.taught, first.taught)


def test_a_class_with_one_row_cannot_be_halved(splits):
    val = splits["val"]
    rows = torch.cat([(val.y == 0).nonzero()[:5, 0], (val.y == 1).nonzero()[:1, 0]])
    with pytest.raises(NotApplicable, match="has 1 validation image"):
        tuning._halves(val.take(rows), Scorer(val.take(rows), "worst_class"), 0)


def test_what_is_given_is_fixed():
    kind = HardTrainingSettings
    assert kind().tune == TuneSettings()
    assert kind(refresh="never").tune == TuneSettings()
    for given in ({"inner_lr": 0.1}, {"epochs": 3}, {"select_by": "hard_loss"}, {"tune": None}, {"tune": False}):
        assert kind(**given).tune is None
    assert kind(tune={"repeats": 1}).tune.repeats == 1
    assert kind(**dict(kind())).tune == TuneSettings()
    assert kind(inner_lr=0.1, tune=True).tune == TuneSettings()
    with pytest.raises(ValueError, match="hard_loss picks an epoch on the rows that teach; set tune: null"):
        kind(select_by="hard_loss", tune=True)


def test_a_seed_below_the_held_out_rows_is_warned_of(splits, caplog):
    """Its support may hold nothing that helps: it fails where the others do not."""
    choice, *_ = chosen(splits, lambda batch, number, epoch: peak(30, (0.7, 0.9, 0.7)[number])(epoch))
    with caplog.at_level(logging.WARNING):
        choice.warn("HSFM", [0.92, 0.4, 0.92])
    assert caplog.messages == [
        "HSFM: a seed has 40.0 % on the rows that taught it: leave it out, or raise tune/support_per_class"
    ]
