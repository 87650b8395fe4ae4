from dataclasses import replace

import pytest
import torch

from hsfm.core.files import write_parquet
from hsfm.heads.hard_set import build
from hsfm.heads.scorer import Scorer
from hsfm.heads.supervision import fit_supervised
from hsfm.heads.tuning import _halves
from hsfm.methods import hsfm, tune
from hsfm.methods.hsfm.outer_loop import Trial
from hsfm.methods.hsfm.support import read_support
from hsfm.methods.hsfm.train import train, train_trials
from tests.methods.small import settings_of, worst_group

SEEDS = (3, 7)


def fit(tr, val, erm, per_class=30, **changes):
    settings, hard_set = settings_of("hsfm", **changes), build(erm, val, per_class=per_class)
    return fit_supervised(hsfm, tr, val, erm, settings=settings, seeds=SEEDS, hard_set=hard_set)


def trained(tr, val, erm, **changes):
    scorer = Scorer(val, changes.get("select_by", "worst_group"))
    return train(tr, val, erm, settings_of("hsfm", **changes), seeds=SEEDS, hard_per_class=30, scorer=scorer)


@pytest.mark.parametrize("changes", [{}, {"outer_set": "random"}, {"select_by": "worst_class"}])
def test_it_is_the_meta_training_from_the_hard_set(splits, erm_head, changes):
    tr, val = splits["train"], splits["val"]
    result, _ = fit(tr, val, erm_head, **changes)
    expected = trained(tr, val, erm_head, **changes)
    # the same hard set lies in the order of losses there, of rows here, and sums round otherwise
    torch.testing.assert_close(result.head.weight, expected.head.weight, rtol=1e-4, atol=1e-5)
    assert result.tables["history"]["epoch"].tolist() == expected.history["epoch"].tolist()
    assert result.settings["hard_per_class"] == 30
    assert result.settings["kept_epoch"] == expected.kept_epoch.tolist()
    assert (torch.tensor(result.arrays["hard_rows"]).sort(-1).values == expected.hard_rows.sort(-1).values).all()


@pytest.mark.parametrize("outer_set", ["hard", "random"])
def test_a_class_below_k_hard_gives_all_it_has(splits, erm_head, outer_set):
    val = splits["val"].take(
        torch.cat([torch.where(splits["val"].y == label)[0][:n] for label, n in ((0, 9), (1, 25))])
    )
    result, _ = fit(splits["train"], val, erm_head, per_class=64, outer_set=outer_set)
    assert result.arrays["hard_rows"].shape == (2, 4, 9 + 25)
    assert result.settings["hard_per_class"] == 25


@pytest.mark.parametrize(
    ("rule", "words", "labels"),
    [
        (None, "the epoch with the best validation worst group", "selection"),
        ("worst_class", "the epoch with the best validation worst class", "none"),
        ("average", "the epoch with the best validation average", "none"),
        ("hard_loss", "the epoch with the lowest loss on its hard set", "none"),
    ],
)
def test_what_picked_the_epoch_is_said(splits, erm_head, rule, words, labels):
    result, used = fit(splits["train"], splits["val"], erm_head, select_by=rule)
    assert (result.chosen_by, used) == (words, labels)


def test_the_support_is_a_table(tmp_path, splits, erm_head):
    tr = splits["train"]
    result, _ = fit(tr, splits["val"], erm_head, epochs=1)
    expected = trained(tr, splits["val"], erm_head, epochs=1)
    path = tmp_path / "support.parquet"
    write_parquet(path, result.tables["support"], {})
    support = read_support(path)
    assert support.checkpoint_sha256 == tr.checkpoint_sha256
    assert torch.equal(support.before, tr.features[expected.support_rows].flatten(0, 1))
    torch.testing.assert_close(support.after, expected.support_after.flatten(0, 1))
    assert not torch.equal(support.after, support.before)
    of_one = support.of(7)
    assert of_one.seed == (7,) * 32
    assert of_one.image_id[2] == tr.image_id[int(expected.support_rows[1, 2])]
    assert torch.equal(of_one.y, tr.y[expected.support_rows[1]])


GRID = {"inner_lr": (0.05, 0.1, 0.2), "outer_lr": (0.3,), "hard_share": (0.5,), "support_per_class": (8,),
        "inner_steps": (3,), "support_steps": (1,), "epochs": 24, "repeats": 1}  # fmt: skip


def tuned(method, tr, val, erm, seeds=SEEDS, **changes):
    own = {name: changes.pop(name) for name in ("outer_set", "select_by", "max_edit") if name in changes}
    settings = method.Settings(tune={**GRID, **changes}, **own)
    hard_set = build(erm, val, per_class=30)
    return fit_supervised(method, tr, val, erm, settings=settings, seeds=seeds, hard_set=hard_set)


@pytest.mark.parametrize("share", [0.1, 1.0])
def test_held_out_accuracies_are_those_of_heads_trained_on_the_other_half(splits, erm_head, monkeypatch, share):
    monkeypatch.setattr("hsfm.heads.grid_choice.WINDOW", 3)
    monkeypatch.setattr("hsfm.heads.tuning.REACH", 1)
    tr, val = splits["train"], splits["val"]
    result, used = tuned(hsfm, tr, val, erm_head, hard_share=(share,), inner_lr=(0.1, 0.2), epochs=6, max_edit=0.7)
    assert used == "selection"
    scorer, halves = Scorer(val, "worst_group"), _halves(val, Scorer(val, "worst_group"), 0)
    unit = float((tr.features - tr.features.mean(0)).abs().mean())
    counts = torch.stack([torch.bincount(val.y[half.rows]) for half in halves]).amin(0)
    k = tuple(max(1, round(share * count)) for count in counts.tolist())
    for row in result.tables["tried"].itertuples():
        how = {"inner_lr": row.inner_lr / 12 / unit, "outer_lr": 0.3 * unit, "max_edit": 0.7, "support_per_class": 8}
        settings = [hsfm.Settings(**how, inner_steps=3, support_steps=1, epochs=epochs) for epochs in range(1, 7)]
        taught, classes = torch.zeros(2, 6), val.y.repeat(2, 6, 1)
        for side, half in enumerate(halves):
            part = val.take(half.rows)
            for epoch, own in enumerate(settings):
                of_last = {"scorers": {"": Scorer(part, "worst_group")}, "keep_from": epoch + 1}
                head = train_trials(tr, part, erm_head, [Trial(half.seed, own, k)], **of_last)[""].head[0]
                taught[side, epoch] = worst_group(head, part)
                classes[side, epoch] = head.predict(val.features)
        accuracies = []
        for epoch in range(6):
            near = range(max(0, epoch - 1), min(6, epoch + 2))
            kept = [max(near, key=lambda e: (float(taught[side, e]), e)) for side in (0, 1)]
            held_out = torch.where(halves[0].taught, classes[1, kept[1]], classes[0, kept[0]])
            accuracies.append(float(scorer(torch.nn.functional.one_hot(held_out, 2).float())))
        smooth = [float(torch.tensor(accuracies[max(0, i - 1) : i + 2]).mean()) for i in range(6)]
        assert row.held_out == pytest.approx(max(smooth), abs=1e-6)
        assert smooth[row.epoch - 1] == pytest.approx(max(smooth))


def test_classes_of_different_size_count_alike(splits, erm_head):
    """As if the rows of the smaller class were there twice."""
    tr, val = splits["train"], splits["val"]
    first, second = ((val.y == label).nonzero().squeeze(1) for label in (0, 1))
    few = val.take(torch.cat([first[:40], second[:20]]))
    twice = val.take(torch.cat([first[:40], second[:20], second[:20]]))
    twice = replace(twice, image_id=tuple(map(str, range(80))))
    settings = settings_of("hsfm")
    heads = [
        train_trials(
            tr, part, erm_head, [Trial(3, settings, sizes)],
            scorers={"": Scorer(part, "worst_class")}, keep_from=settings.epochs, weighted=weighted,
        )[""].head.weight
        for part, sizes, weighted in ((few, (40, 20), True), (twice, 40, False), (few, 40, False))
    ]  # fmt: skip
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-4, atol=1e-5)
    assert (heads[0] - heads[2]).abs().max() > 1e-3


def test_random_rows_come_from_the_half_that_teaches(splits, erm_head):
    result, _ = tuned(hsfm, splits["train"], splits["val"], erm_head, outer_set="random")
    assert result.tables["tried"]["held_out"].between(0, 1).all()


def test_a_tuned_fit_is_the_training_under_the_choice_and_the_same_for_a_seed_alone(splits, erm_head):
    tr, val = splits["train"], splits["val"]
    result, _ = tuned(hsfm, tr, val, erm_head)
    found = result.settings
    named = {
        name: found[name] for name in ("support_per_class", "inner_steps", "inner_lr", "outer_lr", "support_steps")
    }
    settings = hsfm.Settings(**named, epochs=found["epochs"], max_edit=3.0)
    again = train_trials(
        tr, val, erm_head, [Trial(seed, settings, found["hard_per_class"]) for seed in SEEDS],
        scorers={"": Scorer(val, "worst_group")}, keep_from=max(1, found["epoch"] - 10),
    )[""]  # fmt: skip
    torch.testing.assert_close(result.head.weight, again.head.weight, rtol=1e-4, atol=1e-5)
    assert found["kept_epoch"] == again.kept_epoch.tolist()
    accuracies = Scorer(val, "worst_group")(torch.nn.functional.one_hot(result.held_out.long(), 2).float())
    assert abs(float(accuracies.mean()) - found["held_out"]) < 0.05
    assert all(abs(kept - found["epoch"]) <= 10 for kept in found["kept_epoch"])
    assert result.tables["history"].groupby("seed")["epoch"].max().tolist() == [found["epoch"] + 10] * 2
    alone, _ = tuned(hsfm, tr, val, erm_head, seeds=SEEDS[1:])
    torch.testing.assert_close(alone.head.weight[0], result.head.weight[1], rtol=1e-4, atol=1e-5)
    taught = worst_group(result.head[0], val)
    assert found["taught"][0] == pytest.approx(taught)
    low, high = (round(100 * end) for end in found["held_out_interval"])
    assert f"{100 * found['held_out']:.1f} [{low}-{high}] held out" in result.remarks[0]
    assert result.chosen_by == "settings and epoch by the worst group of held-out halves of validation"


def test_the_control_is_chosen_on_the_same_halves(splits, erm_head, monkeypatch):
    tr, val = splits["train"], splits["val"]
    drawn = []
    monkeypatch.setattr("hsfm.heads.tuning._halves", lambda *args: drawn.append(_halves(*args)) or drawn[-1])
    for method in (hsfm, tune):
        result, used = tuned(method, tr, val, erm_head)
        assert used == "selection"
        assert "held out" in result.summary
    of_hsfm, of_tune = drawn
    assert all(torch.equal(a.taught, b.taught) for a, b in zip(of_hsfm, of_tune, strict=True))
    # the control's heads are torch's Adam on the half that teaches
    point, half = result.tables["tried"].iloc[1], of_tune[0]
    part, unit = val.take(half.rows), 1 / (12 * float((tr.features - tr.features.mean(0)).abs().mean()))
    size = round(0.5 * min(int(torch.bincount(val.y[one.rows]).min()) for one in of_tune))
    alone = tune.Settings(inner_steps=3, inner_lr=point["inner_lr"] * unit, epochs=5)
    own = tune.fit(
        tr, part, erm_head,
        settings=alone, seeds=(0,), scorer=Scorer(part, "average"), hard_set=build(erm_head, part, per_class=size),
    )  # fmt: skip
    batch = tune.HalvesTraining(val, erm_head, [alone], size, [half])
    classes, sound = batch.advance(5)
    assert sound.all()
    kept = own.settings["kept_epoch"]
    assert torch.equal(classes[kept - 1, 0, 0], own.head[0].predict(val.features))
    assert list(result.tables["tried"].columns[:3]) == ["hard_share", "inner_steps", "inner_lr"]
    assert worst_group(result.head, splits["test"]) > worst_group(erm_head, splits["test"])
