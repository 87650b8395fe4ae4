import logging
from dataclasses import replace

import pytest
import torch

from hsfm.heads.draw import draw_per_class
from hsfm.heads.hard_set import build
from hsfm.heads.hard_training import HardLoss
from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.heads.supervision import scorer_of
from hsfm.methods.hsfm import outer_loop
from hsfm.methods.hsfm import train as meta
from hsfm.methods.hsfm.outer_loop import CLIP_NORM, OF_TRIAL, Settings, Trial, symbols
from tests.conftest import planted
from tests.methods.hsfm import autograd_loop
from tests.methods.small import worst_group

SETTINGS = Settings(support_per_class=24, inner_steps=5, inner_lr=1e-2, outer_lr=0.1, support_steps=5, epochs=20)
RULES = ("worst_group", "worst_class", "average", "hard_loss")


def changed(settings, **changes):
    return Settings(**{**dict(settings), **changes})


def train(tr, val, head, *, seeds=(0, 1), hard_per_class=30, first_hard_set=None, **changes):
    settings = changed(SETTINGS, **changes)
    return meta.train(
        tr, val, head, settings, seeds=seeds, hard_per_class=hard_per_class, scorer=scorer_of(settings, tr, val),
        first_hard_set=first_hard_set,
    )  # fmt: skip


def chooser(val, rule):
    return HardLoss(Scorer(val, "average")) if rule == "hard_loss" else Scorer(val, rule)


def train_trials(tr, val, head, trials, *, rule="worst_group", **further):
    return meta.train_trials(tr, val, head, trials, scorers={rule: chooser(val, rule)}, **further)[rule]


def trial(seed, **changes):
    return Trial(seed, changed(SETTINGS, **{"epochs": 3, **changes}), hard_per_class=30)


def in_double(embeddings):
    return replace(embeddings, features=embeddings.features.double())


TRIALS = [trial(0), trial(1), trial(1, inner_lr=3e-2, outer_lr=0.5), trial(2, outer_lr=1.0)]


@pytest.mark.parametrize(("form", "off"), [("dual", 0), ("dual", 1), ("primal", 0), ("primal", 1)])
@pytest.mark.parametrize(
    ("trials", "steps", "clip_norm"), [(TRIALS, 5, CLIP_NORM), (TRIALS[:2], 12, 1e-3), (TRIALS[2:3], 1, CLIP_NORM)]
)
def test_trajectories_are_those_of_plain_autograd(
    splits, erm_head, trials, steps, clip_norm, form, off, monkeypatch
):  # fmt: skip
    """Side by side, with rates of their own, clipped or not, by both forms, compiled or not: to 1e-9 in float64."""
    monkeypatch.setattr(outer_loop, "cheaper_form", lambda *_: form)
    monkeypatch.setattr("numba.config.DISABLE_JIT", off)
    monkeypatch.setattr(outer_loop, "CLIP_NORM", clip_norm)
    tr, val = in_double(splits["train"]), in_double(splits["val"])
    erm = Head(erm_head.weight.double(), erm_head.bias.double())
    trials = [replace(each, settings=changed(each.settings, inner_steps=steps)) for each in trials]
    result = train_trials(tr, val, erm, trials)
    assert result.engine == ("torch (NUMBA_DISABLE_JIT is set)" if off else "compiled")
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


def test_trials_beyond_the_memory_budget_go_one_after_the_other(splits, erm_head, monkeypatch):
    """And each is what it would be beside others."""
    sizes, original = [], meta.Loop
    monkeypatch.setattr(meta, "Loop", lambda *args, **how: sizes.append(len(args[3])) or original(*args, **how))
    tr, val = in_double(splits["train"]), in_double(splits["val"])
    erm = Head(erm_head.weight.double(), erm_head.bias.double())
    budget = next(b for b in range(1, 10**9, 1000) if meta.trials_that_fit(tr, val, TRIALS[0], memory_budget=b) == 3)
    whole, cut, least = (train_trials(tr, val, erm, TRIALS, memory_budget=b) for b in (10**9, budget, 1))
    assert sizes == [4, 3, 1, 1, 1, 1, 1]
    for other in (cut, least):
        torch.testing.assert_close(other.head.weight, whole.head.weight, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(other.support_after, whole.support_after, rtol=1e-9, atol=1e-9)
        assert torch.equal(other.support_rows, whole.support_rows)
        assert other.history["number"].tolist() == whole.history["number"].tolist()


def loop_of(splits, erm_head, trials, rules):
    tr, val = splits["train"], splits["val"]
    rows = torch.stack([draw_per_class(tr.y, 24, 2, torch.Generator().manual_seed(each.seed)) for each in trials])
    scorers = {rule: chooser(val, rule) for rule in rules}
    return outer_loop.Loop(tr, val, erm_head, trials, rows=rows, outer_rows=None, scorers=scorers)


@pytest.mark.parametrize("by_torch", [0, 1])
def test_an_epoch_edits_in_place_what_it_keeps(splits, erm_head, by_torch, monkeypatch):
    """An accelerator can record one epoch and replay it: the same objects in the same memory."""
    monkeypatch.setattr("numba.config.DISABLE_JIT", by_torch)
    loop = loop_of(splits, erm_head, TRIALS, ("worst_group", "hard_loss"))

    def places():
        tensors = {name: value for name, value in vars(loop).items() if isinstance(value, torch.Tensor)}
        tensors |= {f"{rule} {name}": value for rule, best in loop.best.items() for name, value in vars(best).items()}
        tensors |= loop.history
        return {name: (id(value), value.data_ptr()) for name, value in tensors.items()}

    before, epochs = places(), []
    loop.train(lambda: epochs.append(int(loop._epoch)))
    assert places() == before
    assert epochs == [1, 2, 3]


def test_it_raises_the_worst_group(splits, erm_head):
    test = splits["test"]
    result = train(splits["train"], splits["val"], erm_head)
    assert worst_group(result.head, test) >= worst_group(erm_head, test) + 0.10
    val = splits["val"]
    minority = (val.y != val.attribute)[result.hard_rows].double().mean(dim=(0, 2))
    assert minority[0] > 0.9
    assert minority[-1] < minority[0]


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


def test_one_training_serves_several_rules_and_keeps_the_last_of_the_best(splits, erm_head):
    tr, val = splits["train"], splits["val"]
    together = meta.train_trials(tr, val, erm_head, TRIALS, scorers={rule: chooser(val, rule) for rule in RULES})
    assert tuple(together) == RULES
    for rule in RULES:
        alone = train_trials(tr, val, erm_head, TRIALS, rule=rule)
        assert torch.equal(together[rule].head.weight, alone.head.weight)
        assert torch.equal(together[rule].support_after, alone.support_after)
        assert together[rule].history.equals(alone.history)
        for _, history in alone.history.groupby("number"):
            value = -history["hard_loss"] if rule == "hard_loss" else history[f"val_{rule}"]
            best = history.loc[value == value.max(), "epoch"].max()
            assert history.loc[history["kept"], "epoch"].tolist() == [best]
    assert not torch.equal(together["worst_group"].kept_epoch, together["hard_loss"].kept_epoch)


def test_without_meta_steps_the_support_stays_as_drawn(splits, erm_head):
    result = train(splits["train"], splits["val"], erm_head, support_steps=0, epochs=2)
    assert torch.equal(result.support_after, splits["train"].features[result.support_rows])
    assert result.history["outer_loss"].isna().all()


def test_the_first_order_gradient_is_taken_when_asked_for(splits, erm_head):
    how = {"epochs": 1, "support_steps": 1}
    full, first = (train(splits["train"], splits["val"], erm_head, **how, gradient=g) for g in ("full", "first_order"))
    assert not torch.equal(full.support_after, first.support_after)


def test_the_published_constants():
    """docs/reference/methods.md says the same."""
    assert CLIP_NORM == 10.0
    assert symbols(SETTINGS) == {"T": 5, "alpha": 1e-2, "eta": 0.1, "K_H": 5}


def test_a_small_class_gives_all_it_has_and_it_is_logged_once(splits, erm_head, caplog):
    few = splits["val"].take(torch.arange(50))
    counts = torch.bincount(few.y)
    with caplog.at_level(logging.WARNING, "hsfm"):
        result = train(few, splits["val"], erm_head, support_per_class=40, epochs=1)
    assert result.support_rows.shape == (2, 50)
    small = [m for m in caplog.messages if "taking all" in m]
    assert small == [f"support_per_class is 40; class class {i} has {counts[i]} images: taking all" for i in (0, 1)]


def test_a_uniform_support_takes_classes_as_they_come(splits, erm_head):
    """And is as large as one that is drawn by class."""
    tr = planted("train", [300, 3, 2, 3], seed=0)
    by_class, uniform = (
        train(tr, splits["val"], erm_head, epochs=1, support_draw=draw) for draw in ("per_class", "uniform")
    )
    assert uniform.support_rows.shape == by_class.support_rows.shape == (2, 29)
    assert tr.y[uniform.support_rows].sum() < tr.y[by_class.support_rows].sum() == 10
    assert not torch.equal(uniform.support_rows[0], uniform.support_rows[1])


@pytest.fixture
def recorded(monkeypatch):
    """Heads and hard features of every meta-gradient that torch takes."""
    calls, original = [], outer_loop.meta_gradient
    monkeypatch.setattr("numba.config.DISABLE_JIT", 1)

    def record(weight, bias, support, support_y, hard, hard_y, **settings):
        calls.append((Head(weight.clone(), bias.clone()), hard.clone()))
        return original(weight, bias, support, support_y, hard, hard_y, **settings)

    monkeypatch.setattr(outer_loop, "meta_gradient", record)
    return calls


def as_a_set(rows):
    return {tuple(row) for row in rows.tolist()}


def test_the_first_epoch_uses_exactly_the_hard_set_given(splits, erm_head, recorded):
    """Class by class, and where it is never refreshed all others do."""
    val, hard_set = splits["val"], build(erm_head, splits["val"], per_class=30)
    other = replace(hard_set, chosen=hard_set.rank > 90)
    expected = torch.cat([val.features[other.chosen & (val.y == label)] for label in (0, 1)])
    how = {"epochs": 3, "support_steps": 1, "first_hard_set": other}
    for refresh in ("epoch", "never"):
        recorded.clear()
        train(splits["train"], val, erm_head, refresh=refresh, **how)
        assert torch.equal(recorded[0][1][0], expected)
        assert (as_a_set(recorded[2][1][0]) == as_a_set(expected)) is (refresh == "never")


@pytest.mark.parametrize("refresh", ["epoch", "never"])
def test_a_random_outer_set_is_drawn_class_by_class(splits, erm_head, recorded, refresh):
    val = splits["val"]
    how = {"epochs": 3, "support_steps": 1, "outer_set": "random", "refresh": refresh}
    result = train(splits["train"], val, erm_head, **how)
    for epoch, (_, hard) in enumerate(recorded):
        rows = result.hard_rows[:, epoch]
        assert torch.equal(val.features[rows], hard)
        assert val.y[rows].tolist() == [[0] * 30 + [1] * 30] * 2
        assert all(len(of_seed.unique()) == 60 for of_seed in rows)
    assert not torch.equal(result.hard_rows[0], result.hard_rows[1]), "every seed draws its own"
    assert torch.equal(result.hard_rows[:, 0], result.hard_rows[:, 1]) is (refresh == "never")
    assert torch.equal(train(splits["train"], val, erm_head, **how).hard_rows, result.hard_rows)


def test_a_dead_support_says_so(splits, erm_head, caplog):
    """A head that fits its support without any loss left has nothing to learn from it."""
    sharp, tr = Head(erm_head.weight * 1e4, erm_head.bias * 1e4), splits["train"]
    fitted = (sharp.predict(tr.features) == tr.y) & (tr.group % 3 == 0)  # majority images on which ERM is right
    with caplog.at_level(logging.WARNING, "hsfm"):
        result = train(tr.take(fitted.nonzero()[:, 0]), splits["val"], sharp, seeds=[0], epochs=3)
    assert "seed 0: the head hardly moved (0.0 % of the validation predictions" in caplog.text
    assert result.remarks == (meta.DEAD,)
    for moved, remark in ((0.0049, meta.DEAD), (0.0051, "")):
        assert replace(result, moved=torch.tensor([moved])).remarks == (remark,)


@pytest.mark.parametrize("rule", ["worst_group", "hard_loss"])
def test_a_trial_that_diverges_throughout_is_an_error(splits, erm_head, rule):
    """A NaN head predicts the first class everywhere; that is no accuracy."""
    with pytest.raises(ValueError, match=r"inner_lr 1e\+38, outer_lr 0.1: seed 0 diverged, no epoch has a finite loss"):
        train(splits["train"], splits["val"], erm_head, inner_lr=1e38, select_by=rule)
    trials = [trial(0), trial(0, inner_lr=1e38)]
    result = train_trials(splits["train"], splits["val"], erm_head, trials, rule=rule)
    assert (result.kept_epoch > 0).tolist() == [True, False]
    assert result.head.weight.isfinite().all(2).all(1).tolist() == [True, False]
    assert result.moved.isnan().tolist() == [False, True]
    assert result.remarks == ("", "")


def test_an_epoch_that_diverged_is_never_kept(splits, erm_head):
    """Even where its accuracy would be a later tie."""
    loop, epochs = loop_of(splits, erm_head, TRIALS[:1], ["worst_group"]), []

    def after():
        epochs.append(loop.weight.clone())
        if len(epochs) == 2:
            loop.weight.fill_(torch.nan)

    loop.train(after)
    assert loop.history["val_worst_group"].isnan().flatten().tolist() == [False, False, True]
    assert loop.best["worst_group"].epoch.tolist() <= [2]
    assert loop.best["worst_group"].weight.isfinite().all()


@pytest.mark.parametrize(
    "name", [name for name in Settings.model_fields if name not in (*OF_TRIAL, "select_by", "tune")]
)
def test_trials_of_unlike_shapes_do_not_go_side_by_side(name):
    others = {"refresh": "never", "outer_set": "random", "gradient": "first_order", "support_draw": "uniform"}
    assert trial(0).shape != trial(1, **{name: others.get(name, 7)}).shape
    assert trial(0).shape == trial(1, select_by="average", inner_lr=1.0, outer_lr=2.0).shape


def test_inputs_that_do_not_belong_together_are_named(splits, erm_head):
    tr, val = splits["train"], splits["val"]
    blind = replace(val, attribute=torch.where(val.attribute == 1, -1, val.attribute))
    broken = replace(tr, features=tr.features.clone().index_fill_(0, torch.tensor(0), torch.nan))
    one = tr.take((tr.y == 0).nonzero()[:, 0])
    for change, message in (
        ({"val": replace(val, checkpoint_sha256="b" * 64)}, "train and val embeddings differ in checkpoint"),
        ({"head": Head(torch.zeros(2, 5), torch.zeros(2))}, r"head: weight is \[2, 5\], expected \[2, 12\]"),
        ({"val": blind}, r'select_by="worst_group" needs the attribute of every val image; 120 of 240'),
        ({"first_hard_set": build(erm_head, tr, per_class=3)}, "first_hard_set: lists other images than val"),
        ({"tr": broken}, r"train: row 0 \(image 'train-0000'\) holds a NaN"),
        (dict.fromkeys(("tr", "val"), replace(one, class_names=("a",))), "classes: a is one class only"),
    ):
        with pytest.raises(ValueError, match=message):
            train(**{"tr": tr, "val": val, "head": erm_head, **change})
    with pytest.raises(ValueError, match=r"trials: .* differ in more than inner_lr, outer_lr"):
        train_trials(tr, val, erm_head, [trial(0), trial(1, epochs=7)])


def test_a_head_with_a_gradient_is_taken(splits, erm_head):
    learning = Head(erm_head.weight.clone().requires_grad_(), erm_head.bias.clone().requires_grad_())
    assert not train(splits["train"], splits["val"], learning, epochs=2).head.weight.requires_grad


@pytest.mark.parametrize("bound", [0.5, 2.0, 1e9])
def test_edits_end_at_the_bound_and_are_else_as_without(splits, erm_head, bound):
    tr, val = splits["train"], splits["val"]
    centered = torch.cat([tr.features[tr.y == c] - tr.features[tr.y == c].mean(0) for c in (0, 1)])
    radius = float(centered.square().sum(1).mean().sqrt())
    assert outer_loop.class_radius(tr) == pytest.approx(radius, rel=1e-5)
    how = {"seeds": (0,), "hard_per_class": 30, "scorer": Scorer(val, "worst_group")}
    bounded, free = (meta.train(tr, val, erm_head, changed(SETTINGS, max_edit=m), **how) for m in (bound, None))
    length = (bounded.support_after[0] - tr.features[bounded.support_rows[0]]).norm(dim=1)
    assert (length <= bound * radius * 1.0001).all()
    longest = float((free.support_after[0] - tr.features[free.support_rows[0]]).norm(dim=1).max())
    assert longest > 2 * radius
    assert torch.equal(bounded.head.weight, free.head.weight) == (bound > longest / radius)


def test_the_bound_is_by_default_where_hsfm_tunes_itself():
    assert Settings().max_edit == outer_loop.MAX_EDIT == Settings(**dict(Settings())).max_edit
    assert Settings(inner_lr=0.1).max_edit is None is Settings(tune=None).max_edit
    assert Settings(max_edit=2).tune == Settings(max_edit=None).tune == Settings().tune
    assert Settings(inner_lr=0.1, max_edit=2).max_edit == 2
