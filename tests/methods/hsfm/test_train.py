import logging
from dataclasses import replace
from functools import partial
from statistics import mean

import pytest
import torch

from hsfm.core.metrics import accuracy_by, worst
from hsfm.heads.hard_set import build, losses, rank_in_class
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.heads.supervision import scorer_of
from hsfm.methods.hsfm import outer_loop as meta_loop
from hsfm.methods.hsfm import train as meta
from hsfm.methods.hsfm.outer_loop import CLIP_NORM, OF_TRIAL, HardLoss, Settings, Trial, symbols
from hsfm.methods.hsfm.train import draw_per_class
from tests.conftest import planted
from tests.methods.hsfm import autograd_loop

SETTINGS = Settings(support_per_class=24, inner_steps=5, inner_lr=1e-2, outer_lr=0.1, support_steps=5, epochs=20)
RULES = ("worst_group", "worst_class", "average", "hard_loss")


def changed(settings, **changes):
    return Settings(**{**dict(settings), **changes})


def train(tr, val, head, *, seeds=(0, 1), hard_per_class=30, first_hard_set=None, **changes):
    settings = changed(SETTINGS, **changes)
    scorer = scorer_of(settings, val)
    return meta.train(
        tr, val, head, settings,
        seeds=seeds, hard_per_class=hard_per_class, scorer=scorer, first_hard_set=first_hard_set,
    )  # fmt: skip


def chooser(val, rule):
    return HardLoss(Scorer(val, "average")) if rule == "hard_loss" else Scorer(val, rule)


def train_trials(tr, val, head, trials, *, rule="worst_group", **further):
    return meta.train_trials(tr, val, head, trials, scorers={rule: chooser(val, rule)}, **further)[rule]


def test_support_is_drawn_class_by_class_in_table_order(splits):
    y = splits["train"].y
    rows = draw_per_class(y, 5, 2, torch.Generator().manual_seed(60))
    g = torch.Generator().manual_seed(60)
    expected = []
    for label in (0, 1):
        members = [i for i, value in enumerate(y.tolist()) if value == label]
        expected += [members[i] for i in torch.randperm(len(members), generator=g)[:5]]
    assert rows.tolist() == expected


def test_a_small_class_gives_all_it_has_and_it_is_logged_once(splits, erm_head, caplog):
    rows = draw_per_class(torch.tensor([0, 0, 0, 1, 0]), 2, 2, torch.Generator().manual_seed(0))
    assert 3 in rows.tolist()
    assert len(rows) == 3
    few = replace(
        splits["val"], image_id=splits["val"].image_id[:50], **{
            name: getattr(splits["val"], name)[:50] for name in ("features", "y", "attribute")
        }
    )  # fmt: skip
    counts = torch.bincount(few.y)
    with caplog.at_level(logging.WARNING, "hsfm"):
        result = train(few, splits["val"], erm_head, support_per_class=40, epochs=1)
    assert result.support_rows.shape == (2, 50)
    small = [m for m in caplog.messages if "taking all" in m]
    assert small == [f"support_per_class is 40; class class {i} has {counts[i]} images: taking all" for i in (0, 1)]


def in_double(embeddings):
    return replace(embeddings, features=embeddings.features.double())


def trial(seed, *, clip_norm=CLIP_NORM, **changes):
    return Trial(seed, changed(SETTINGS, **{"epochs": 3, **changes}), hard_per_class=30, clip_norm=clip_norm)


def all_with(trials, **changes):
    return [replace(each, settings=changed(each.settings, **changes)) for each in trials]


TRIALS = [trial(0), trial(1), trial(1, inner_lr=3e-2, outer_lr=0.5), trial(2, outer_lr=1.0, clip_norm=1e-3)]


@pytest.mark.parametrize("form", ["dual", "primal"])
@pytest.mark.parametrize(("trials", "steps"), [(TRIALS, 5), (TRIALS[:2], 12), (TRIALS[2:3], 1)])
def test_trajectories_are_those_of_plain_autograd(splits, erm_head, trials, steps, form, monkeypatch):
    """Side by side, with rates and clipping of their own, by both forms of the gradient: to 1e-9 in float64."""
    monkeypatch.setattr(meta_loop, "meta_gradient", partial(meta_loop.meta_gradient, form=form))
    tr, val = in_double(splits["train"]), in_double(splits["val"])
    erm = Head(erm_head.weight.double(), erm_head.bias.double())
    trials = all_with(trials, inner_steps=steps)
    result = train_trials(tr, val, erm, trials)
    for i, each in enumerate(trials):
        oracle = autograd_loop.train(tr, val, erm, each)
        history = result.history[result.history["number"] == i]
        assert int(result.kept_epoch[i]) == oracle.kept_epoch
        torch.testing.assert_close(result.head.weight[i], oracle.head.weight, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(result.head.bias[i], oracle.head.bias, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(result.support_after[i], oracle.support, rtol=1e-9, atol=1e-9)
        assert history["outer_loss"].tolist() == pytest.approx(oracle.outer_loss, rel=1e-9)
        assert history["val_worst_group"].tolist() == pytest.approx(oracle.worst_group, abs=1e-12)
        assert history.loc[history["kept"], "epoch"].tolist() == [oracle.kept_epoch]


def test_full_trainings_score_as_plain_autograd_does(splits, erm_head):
    """The loop amplifies rounding; over 20 seeds the mean worst groups agree within one point."""
    tr, val, test = splits["train"], splits["val"], splits["test"]
    trials = [trial(seed, outer_lr=1.0, epochs=12) for seed in range(20)]

    def worst_group(head):
        return float(worst(accuracy_by(head.predict(test.features) == test.y, test.group, 4)).mean())

    ours = worst_group(train_trials(tr, val, erm_head, trials).head)
    theirs = mean(worst_group(autograd_loop.train(tr, val, erm_head, each).head) for each in trials)
    assert ours == pytest.approx(theirs, abs=0.01)


def test_each_trial_is_what_it_would_be_alone(splits, erm_head):
    tr, val = in_double(splits["train"]), in_double(splits["val"])
    erm = Head(erm_head.weight.double(), erm_head.bias.double())
    together = train_trials(tr, val, erm, TRIALS)
    for i, each in enumerate(TRIALS):
        alone = train_trials(tr, val, erm, [each])
        torch.testing.assert_close(together.head.weight[i], alone.head.weight[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(together.support_after[i], alone.support_after[0], rtol=1e-9, atol=1e-9)
        assert torch.equal(together.support_rows[i], alone.support_rows[0])


def test_trials_beyond_the_memory_budget_go_one_after_the_other(splits, erm_head, monkeypatch):
    sizes = []
    original = meta.Loop

    def record(*arguments, **settings):
        sizes.append(len(arguments[3]))
        return original(*arguments, **settings)

    monkeypatch.setattr(meta, "Loop", record)
    tr, val = splits["train"], splits["val"]
    budget = next(b for b in range(1, 10**9, 1000) if meta.trials_that_fit(tr, val, TRIALS[0], memory_budget=b) == 3)
    whole = train_trials(tr, val, erm_head, TRIALS)
    cut = train_trials(tr, val, erm_head, TRIALS, memory_budget=budget)
    least = train_trials(tr, val, erm_head, TRIALS, memory_budget=1)
    assert sizes == [4, 3, 1, 1, 1, 1, 1]
    for other in (cut, least):
        torch.testing.assert_close(other.head.weight, whole.head.weight, rtol=1e-3, atol=1e-4)
        assert other.history["number"].tolist() == whole.history["number"].tolist()
        assert other.trials == whole.trials


def test_an_epoch_edits_in_place_what_it_keeps(splits, erm_head):
    """An accelerator can record one epoch and replay it: the same objects in the same memory."""
    tr, val = splits["train"], splits["val"]
    rows = torch.stack([draw_per_class(tr.y, 24, 2, torch.Generator().manual_seed(each.seed)) for each in TRIALS])
    scorers = {rule: chooser(val, rule) for rule in ("worst_group", "hard_loss")}
    loop = meta_loop.Loop(tr, val, erm_head, TRIALS, rows=rows, outer_rows=None, scorers=scorers)

    def places():
        tensors = {name: value for name, value in vars(loop).items() if isinstance(value, torch.Tensor)}
        tensors |= {f"{rule} {name}": value for rule, best in loop.best.items() for name, value in vars(best).items()}
        tensors |= loop.history
        return {name: (id(value), value.data_ptr()) for name, value in tensors.items()}

    before, epochs = places(), []
    loop.train(lambda: epochs.append(int(loop._epoch)))
    assert places() == before
    assert epochs == [1, 2, 3]


def test_adam_is_torchs(splits):
    g = torch.Generator().manual_seed(0)
    start, rates = torch.randn(3, 4, 5, generator=g), [0.1, 0.01, 0.1]
    for chosen in (rates, [0.1, 0.1, 0.1]):
        ours = start.clone()
        optimizer = meta_loop.Adam([ours], chosen)
        theirs = [torch.nn.Parameter(t.clone()) for t in start]
        others = [torch.optim.Adam([p], lr=rate) for p, rate in zip(theirs, chosen, strict=True)]
        for _ in range(5):
            gradient = torch.randn(3, 4, 5, generator=g)
            optimizer.step(gradient)
            for p, piece, other in zip(theirs, gradient, others, strict=True):
                p.grad = piece.clone()
                other.step()
        torch.testing.assert_close(ours, torch.stack([p.detach() for p in theirs]))


def test_it_raises_the_worst_group(splits, erm_head):
    test = splits["test"]
    result = train(splits["train"], splits["val"], erm_head)
    before = worst(accuracy_by(erm_head.predict(test.features) == test.y, test.group, 4))
    after = worst(accuracy_by(result.head.predict(test.features) == test.y, test.group, 4))
    assert (after >= before + 0.10).all(), (float(before), after.tolist())
    val = splits["val"]
    minority = (val.y != val.attribute)[result.hard_rows].double().mean(dim=(0, 2))
    assert minority[0] > 0.9
    assert minority[-1] < minority[0]


@pytest.mark.parametrize("outer_set", ["hard", "random"])
def test_the_result_says_which_rows_the_outer_losses_were_over(splits, erm_head, outer_set, recorded):
    tr, val = splits["train"], splits["val"]
    result = train(tr, val, erm_head, epochs=3, support_steps=1, outer_set=outer_set)
    assert result.hard_rows.shape == (2, 3, 60)
    for epoch, (_, hard) in enumerate(recorded):
        assert torch.equal(val.features[result.hard_rows[:, epoch]], hard)


def test_the_result_says_what_was_edited(splits, erm_head):
    tr = splits["train"]
    result = train(tr, splits["val"], erm_head, epochs=3)
    assert result.head.weight.shape == (2, 2, 12)
    assert result.support_after.shape == (2, 48, 12)
    before = tr.features[result.support_rows]
    assert result.support_after.shape == before.shape
    assert torch.equal(result.support_y, tr.y[result.support_rows])
    assert result.support_id[1][7] == tr.image_id[int(result.support_rows[1, 7])]
    assert not torch.equal(result.support_after, before)
    assert (result.head_change > 0).all()


def test_equal_calls_give_equal_bytes(splits, erm_head):
    first = train(splits["train"], splits["val"], erm_head, epochs=3)
    torch.manual_seed(99)
    second = train(splits["train"], splits["val"], erm_head, epochs=3)
    assert torch.equal(first.head.weight, second.head.weight)
    assert torch.equal(first.support_after, second.support_after)
    assert not torch.equal(first.head.weight[0], first.head.weight[1])


def test_inputs_are_left_alone(splits, erm_head):
    before = splits["train"].features.clone(), erm_head.weight.clone()
    train(splits["train"], splits["val"], erm_head, epochs=1)
    assert torch.equal(splits["train"].features, before[0])
    assert torch.equal(erm_head.weight, before[1])


def test_groups_only_choose_the_epoch(splits, erm_head):
    """Other attributes may change which epoch is kept, and nothing else."""
    tr, val = splits["train"], splits["val"]
    order = torch.randperm(len(val.y), generator=torch.Generator().manual_seed(0))
    shuffled = replace(val, attribute=val.attribute[order])
    expected, other = (train(tr, e, erm_head, epochs=4).history for e in (val, shuffled))
    columns = ["seed", "epoch", "outer_loss", "hard_loss", "val_average", "val_worst_class"]
    assert other[columns].equals(expected[columns])
    assert not other["val_worst_group"].equals(expected["val_worst_group"])
    unknown = train(tr.without_attributes(), val.without_attributes(), erm_head, epochs=4, select_by="worst_class")
    assert unknown.history[columns].equals(expected[columns])
    assert unknown.history["val_worst_group"].isna().all()


@pytest.fixture
def recorded(monkeypatch):
    """Heads and hard features of every meta-gradient that is taken."""
    calls = []
    original = meta_loop.meta_gradient

    def record(weight, bias, support, support_y, hard, hard_y, **settings):
        calls.append((Head(weight.clone(), bias.clone()), hard.clone()))
        return original(weight, bias, support, support_y, hard, hard_y, **settings)

    monkeypatch.setattr(meta_loop, "meta_gradient", record)
    return calls


def in_class_order(val, chosen):
    return torch.cat([val.features[chosen & (val.y == label)] for label in range(val.n_classes)])


def as_a_set(rows):
    return {tuple(row) for row in rows.tolist()}


def test_the_first_epoch_uses_exactly_the_hard_set_given(splits, erm_head, recorded):
    tr, val = splits["train"], splits["val"]
    hard_set = build(erm_head, val, per_class=30)
    settings = {"seeds": [0], "epochs": 2, "support_steps": 1}
    train(tr, val, erm_head, **settings, first_hard_set=hard_set)
    train(tr, val, erm_head, **settings)
    assert torch.equal(recorded[0][1][0], in_class_order(val, hard_set.chosen))
    assert as_a_set(recorded[0][1][0]) == as_a_set(recorded[2][1][0])

    other = replace(hard_set, chosen=hard_set.rank > 90)
    recorded.clear()
    train(tr, val, erm_head, **settings, first_hard_set=other)
    assert torch.equal(recorded[0][1][0], in_class_order(val, other.chosen))
    assert as_a_set(recorded[1][1][0]) != as_a_set(recorded[0][1][0]), "the second epoch chooses anew"

    recorded.clear()
    train(tr, val, erm_head, **{**settings, "epochs": 3}, refresh="never", first_hard_set=other)
    assert all(torch.equal(hard, recorded[0][1]) for _, hard in recorded)


def test_later_epochs_choose_under_the_current_head(splits, erm_head, recorded):
    val = splits["val"]
    train(splits["train"], val, erm_head, epochs=4, support_steps=1)
    for head, hard in recorded:
        for r in range(2):
            chosen = rank_in_class(losses(head[r], val.features, val.y), val.y) <= 30
            assert as_a_set(hard[r]) == as_a_set(val.features[chosen])


@pytest.mark.parametrize("rule", RULES)
def test_the_kept_epoch_is_the_last_of_the_best(splits, erm_head, rule):
    history = train(splits["train"], splits["val"], erm_head, seeds=[3], select_by=rule).history
    value = -history["hard_loss"] if rule == "hard_loss" else history[f"val_{rule}"]
    assert history.loc[history["kept"], "epoch"].tolist() == [history.loc[value == value.max(), "epoch"].max()]


def test_one_training_serves_several_rules(splits, erm_head):
    tr, val = splits["train"], splits["val"]
    together = meta.train_trials(tr, val, erm_head, TRIALS, scorers={rule: chooser(val, rule) for rule in RULES})
    assert tuple(together) == RULES
    for rule in RULES:
        alone = train_trials(tr, val, erm_head, TRIALS, rule=rule)
        assert torch.equal(together[rule].head.weight, alone.head.weight)
        assert torch.equal(together[rule].support_after, alone.support_after)
        assert together[rule].history.equals(alone.history)
    assert not torch.equal(together["worst_group"].kept_epoch, together["hard_loss"].kept_epoch)


@pytest.mark.parametrize("refresh", ["epoch", "never"])
def test_a_random_outer_set_is_drawn_class_by_class(splits, erm_head, recorded, refresh):
    val = splits["val"]
    settings = {"epochs": 3, "support_steps": 1, "outer_set": "random", "refresh": refresh}
    train(splits["train"], val, erm_head, **settings)
    first = list(recorded)
    for _, hard in recorded:
        for r in range(2):
            rows = (hard[r].unsqueeze(1) == val.features).all(2).nonzero()[:, 1]
            assert len(rows.unique()) == 60
            assert val.y[rows].tolist() == [0] * 30 + [1] * 30
    assert as_a_set(first[0][1][0]) != as_a_set(first[0][1][1]), "every seed draws its own"
    assert (as_a_set(first[0][1][0]) == as_a_set(first[1][1][0])) is (refresh == "never")
    recorded.clear()
    train(splits["train"], val, erm_head, **settings)
    assert all(torch.equal(a[1], b[1]) for a, b in zip(first, recorded, strict=True))


def test_a_uniform_support_takes_classes_as_they_come(splits, erm_head):
    tr = planted("train", [300, 10, 10, 80], seed=0)
    result = train(tr, splits["val"], erm_head, epochs=2, support_draw="uniform")
    assert result.support_rows.shape == (2, 48)
    assert torch.equal(result.support_y, tr.y[result.support_rows])
    assert result.support_y.float().mean() < 0.4, "310 of 400 images are of class 0"
    assert not torch.equal(result.support_y[0], result.support_y[1])
    trials = all_with(TRIALS[:2], support_draw="uniform")
    both, alone = (train_trials(tr, splits["val"], erm_head, some) for some in (trials, trials[1:]))
    torch.testing.assert_close(both.head.weight[1], alone.head.weight[0], rtol=1e-4, atol=1e-5)


def test_the_first_order_gradient_is_taken_when_asked_for(splits, erm_head, recorded):
    settings = {"epochs": 1, "support_steps": 1}
    full = train(splits["train"], splits["val"], erm_head, **settings)
    first = train(splits["train"], splits["val"], erm_head, **settings, gradient="first_order")
    assert not torch.equal(full.support_after, first.support_after)


def test_without_meta_steps_the_support_stays_as_drawn(splits, erm_head):
    result = train(splits["train"], splits["val"], erm_head, support_steps=0, epochs=2)
    assert torch.equal(result.support_after, splits["train"].features[result.support_rows])
    assert result.history["outer_loss"].isna().all()


def test_a_dead_support_says_so(splits, erm_head, caplog):
    """A head that fits its support without any loss left has nothing to learn from it."""
    sharp = Head(erm_head.weight * 1e4, erm_head.bias * 1e4)
    tr = splits["train"]
    fitted = (sharp.predict(tr.features) == tr.y) & (tr.group % 3 == 0)  # majority images on which ERM is right
    easy = replace(
        tr, features=tr.features[fitted], y=tr.y[fitted], attribute=tr.attribute[fitted],
        image_id=tuple(name for name, keep in zip(tr.image_id, fitted.tolist(), strict=True) if keep),
    )  # fmt: skip
    with caplog.at_level(logging.WARNING, "hsfm"):
        result = train(easy, splits["val"], sharp, seeds=[0], epochs=3)
        assert float(result.moved[0]) < meta.DEAD_SHARE
        assert "seed 0: the head hardly moved (0.0 % of the validation predictions" in caplog.text
        caplog.clear()
        train(tr, splits["val"], erm_head, seeds=[0])
        assert "hardly moved" not in caplog.text


def test_more_than_two_classes():
    counts = {"train": [190, 10, 10, 190, 190, 10], "val": [30] * 6}
    tr, val = (planted(split, counts[split], seed=i, classes=3) for i, split in enumerate(counts))
    head = Head(torch.zeros(3, 12), torch.zeros(3))
    result = train(tr, val, head, select_by="worst_class")
    assert result.head.weight.shape == (2, 3, 12)
    accuracy = accuracy_by(result.head.predict(val.features) == val.y, val.y, 3)
    assert (accuracy > 0.6).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hard_per_class": 0}, "hard_per_class: 0 is not a whole number from 1"),
        ({"seeds": [1, 1]}, r"seeds: \[1, 1\] is empty or repeats"),
        ({"seeds": []}, r"seeds: \[\] is empty"),
        ({"seeds": [-1]}, "seed: -1 is not a whole number from 0"),
    ],
)
def test_what_is_out_of_range_is_named(splits, erm_head, change, message):
    with pytest.raises(ValueError, match=message):
        train(splits["train"], splits["val"], erm_head, **change)


@pytest.mark.parametrize("name", [name for name in Settings.model_fields if name not in (*OF_TRIAL, "select_by")])
def test_trials_of_unlike_shapes_do_not_go_side_by_side(splits, erm_head, name):
    others = {"refresh": "never", "outer_set": "random", "gradient": "first_order", "support_draw": "uniform"}
    other = trial(1, **{name: others.get(name, 7)})
    with pytest.raises(ValueError, match="trials: differ in more than inner_lr, outer_lr"):
        train_trials(splits["train"], splits["val"], erm_head, [trial(0), other])


def test_symbols_are_the_papers():
    """docs/reference/methods.md says the same."""
    assert symbols(SETTINGS) == {"T": 5, "alpha": 1e-2, "eta": 0.1, "K_H": 5}


def test_inputs_that_do_not_belong_together_are_named(splits, erm_head):
    tr, val = splits["train"], splits["val"]
    with pytest.raises(ValueError, match="train and val embeddings differ in checkpoint"):
        train(tr, replace(val, checkpoint_sha256="b" * 64), erm_head)
    with pytest.raises(ValueError, match=r"head: weight is \[2, 5\], expected \[2, 12\]"):
        train(tr, val, Head(torch.zeros(2, 5), torch.zeros(2)))
    blind = replace(val, attribute=torch.where(val.attribute == 1, -1, val.attribute))
    with pytest.raises(ValueError, match=r'select_by="worst_group" needs the attribute of every val image; 120 of 240'):
        train(tr, blind, erm_head)


def test_the_published_constants():
    """methods.md: the meta-gradient is clipped to norm 10."""
    assert trial(0).clip_norm == 10.0


def test_clipping_is_torchs():
    gradient = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0))
    norms = torch.tensor([0.5, 100.0, 2.0])
    clipped = meta_loop.clip(gradient, norms)
    for piece, norm, ours in zip(gradient, norms, clipped, strict=True):
        parameter = torch.nn.Parameter(torch.zeros(4, 5))
        parameter.grad = piece.clone()
        torch.nn.utils.clip_grad_norm_([parameter], float(norm))
        torch.testing.assert_close(ours, parameter.grad)


def test_hardly_moved_is_less_than_half_a_percent(splits, erm_head):
    result = train(splits["train"], splits["val"], erm_head, epochs=1)
    assert replace(result, moved=torch.tensor([0.0049, 0.0051])).dead.tolist() == [True, False]


def test_nothing_trains_on_the_test_split(splits, erm_head):
    with pytest.raises(ValueError, match="HSFM was given the test split of planted"):
        train(splits["train"], splits["test"], erm_head)
    with pytest.raises(ValueError, match="HSFM was given the test split"):
        train(splits["test"], splits["val"], erm_head)


def test_mismatched_types_and_hard_sets_are_named(splits, erm_head):
    tr, val = splits["train"], splits["val"]
    with pytest.raises(ValueError, match=r"val features: torch.float64, but the train features are torch.float32"):
        train(tr, in_double(val), erm_head)
    with pytest.raises(ValueError, match="first_hard_set: lists other images than val"):
        train(tr, val, erm_head, first_hard_set=build(erm_head, tr, per_class=3))
    hard_set = build(erm_head, val, per_class=3)
    with pytest.raises(ValueError, match="first_hard_set: is given, but outer_set is 'random'"):
        train(tr, val, erm_head, outer_set="random", first_hard_set=hard_set)


@pytest.mark.parametrize("rule", RULES)
def test_a_trial_that_diverges_throughout_is_an_error(splits, erm_head, rule):
    """A NaN head predicts the first class everywhere; that is no accuracy."""
    with pytest.raises(ValueError, match=r"inner_lr 1e\+38, outer_lr 0.1: seed 0 diverged, no epoch has a finite loss"):
        train(splits["train"], splits["val"], erm_head, inner_lr=1e38, select_by=rule)
    trials = [trial(0), trial(0, inner_lr=1e38)]
    result = train_trials(splits["train"], splits["val"], erm_head, trials, rule=rule)
    assert (result.kept_epoch > 0).tolist() == [True, False]
    assert result.head.weight.isfinite().all(2).all(1).tolist() == [True, False]
    assert result.moved.isnan().tolist() == [False, True]
    assert result.dead.tolist() == [False, False]


def test_an_epoch_that_diverged_is_never_kept(splits, erm_head):
    """Even where its accuracy would be a later tie."""
    tr, val = splits["train"], splits["val"]
    rows = torch.stack([draw_per_class(tr.y, 24, 2, torch.Generator().manual_seed(0))])
    scorers = {"worst_group": Scorer(val, "worst_group")}
    loop = meta_loop.Loop(tr, val, erm_head, TRIALS[:1], rows=rows, outer_rows=None, scorers=scorers)
    epochs = []

    def after():
        epochs.append(loop.weight.clone())
        if len(epochs) == 2:
            loop.weight.fill_(torch.nan)

    loop.train(after)
    assert loop.history["val_worst_group"].isnan().flatten().tolist() == [False, False, True]
    assert loop.best["worst_group"].epoch.tolist() <= [2]
    assert loop.best["worst_group"].weight.isfinite().all()


def damaged(embeddings, **changes):
    return replace(embeddings, **{name: change(getattr(embeddings, name).clone()) for name, change in changes.items()})


def set_first(value):
    def change(tensor):
        tensor[0] = value
        return tensor

    return change


BAD = {
    "NaN features": (lambda s, h: (damaged(s["train"], features=set_first(torch.nan)), s["val"], h),
                     r"train: row 0 \(image 'train-0000'\) holds a NaN"),
    "NaN in val": (lambda s, h: (s["train"], damaged(s["val"], features=set_first(torch.inf)), h), "val: row 0"),
    "a class out of range": (lambda s, h: (damaged(s["train"], y=set_first(2)), s["val"], h),
                             r"train: row 0 .* has y 2; allowed are 0 to 1 \(class 0, class 1\)"),
    "val lacks a class": (lambda s, h: (s["train"], s["val"].take((s["val"].y == 0).nonzero().squeeze(1)), h),
                          r"val: class 1 \(class 1\) has no image"),
    "one class": (lambda s, h: (*(replace(e.take((e.y == 0).nonzero().squeeze(1)), class_names=("a",))
                                  for e in (s["train"], s["val"])), Head(h.weight[:1], h.bias[:1])),
                  "classes: a is one class only; expected at least two"),
    "a NaN head": (lambda s, h: (s["train"], s["val"], Head(h.weight * torch.nan, h.bias)), "head: weight holds a NaN"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_named(splits, erm_head, name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        train(*make(splits, erm_head))


def test_a_head_with_a_gradient_is_taken(splits, erm_head):
    learning = Head(erm_head.weight.clone().requires_grad_(), erm_head.bias.clone().requires_grad_())
    first = train(splits["train"], splits["val"], learning, epochs=2)
    assert not first.head.weight.requires_grad


def test_a_hard_set_of_another_size_is_named(splits, erm_head):
    val = splits["val"]
    hard_set = build(erm_head, val, per_class=5)
    message = "first_hard_set: chooses 5 images of class class 0, but hard_per_class is 30 of 120"
    with pytest.raises(ValueError, match=message):
        train(splits["train"], val, erm_head, first_hard_set=hard_set)


def test_a_uniform_support_is_as_large_as_a_balanced_one(splits, erm_head):
    tr = planted("train", [300, 3, 2, 3], seed=0)
    sizes = [
        train(tr, splits["val"], erm_head, epochs=1, support_draw=draw).support_rows.shape
        for draw in ("per_class", "uniform")
    ]
    assert sizes == [(2, 29)] * 2
