import logging
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch
from conftest import planted
from torch.nn.functional import cross_entropy

from hsfm import meta
from hsfm.hard_set import build, choose, losses
from hsfm.head import Head
from hsfm.meta import adapt, draw_support, meta_gradient, minority_rows, train
from hsfm.metrics import accuracy_by, worst

SETTINGS = {
    "seeds": [0, 1],
    "support_per_class": 24,
    "inner_steps": 5,
    "inner_lr": 1e-2,
    "outer_lr": 0.1,
    "support_steps": 5,
    "hard_per_class": 30,
    "epochs": 20,
}


def random_problem(classes: int, sizes: list[int], d: int = 5, m: int = 9):
    """A head, a ragged support and a hard set in float64."""
    g = torch.Generator().manual_seed(classes)
    head = Head(torch.randn(classes, d, generator=g).double(), torch.randn(classes, generator=g).double())
    support_y = torch.repeat_interleave(torch.arange(classes), torch.tensor(sizes))
    support = torch.randn(len(support_y), d, generator=g).double()
    return head, support, support_y, torch.randn(m, d, generator=g).double(), torch.arange(m) % classes


@pytest.mark.parametrize(("classes", "sizes"), [(2, [4, 4]), (2, [1, 6]), (4, [3, 2, 5, 1])])
@pytest.mark.parametrize("steps", [1, 7])
def test_meta_gradient_against_finite_differences(classes, sizes, steps):
    head, support, support_y, hard, hard_y = random_problem(classes, sizes)
    lr = 0.3

    def outer(h):
        """Adapted by torch's own optimiser, so that nothing of the package is in the oracle."""
        layer = torch.nn.Linear(5, classes).double()
        layer.load_state_dict({"weight": head.weight, "bias": head.bias})
        optimiser = torch.optim.SGD(layer.parameters(), lr=lr)
        for _ in range(steps):
            optimiser.zero_grad()
            cross_entropy(layer(h), support_y).backward()
            optimiser.step()
        with torch.no_grad():
            return float(cross_entropy(layer(hard), hard_y))

    loss, gradient = meta_gradient(head, support, support_y, hard, hard_y, steps=steps, lr=lr)
    assert float(loss) == pytest.approx(outer(support), rel=1e-12)
    step, numeric = 1e-5, torch.zeros_like(support)
    for i in range(support.shape[0]):
        for j in range(support.shape[1]):
            up, down = support.clone(), support.clone()
            up[i, j] += step
            down[i, j] -= step
            numeric[i, j] = (outer(up) - outer(down)) / (2 * step)
    assert gradient.abs().max() > 1e-3
    torch.testing.assert_close(gradient, numeric, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("steps", [1, 2, 15])
def test_adaptation_is_torchs_sgd(steps):
    head, support, support_y, *_ = random_problem(3, [4, 2, 3])
    layer = torch.nn.Linear(5, 3).double()
    layer.load_state_dict({"weight": head.weight, "bias": head.bias})
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.2)
    for _ in range(steps):
        optimiser.zero_grad()
        cross_entropy(layer(support), support_y).backward()
        optimiser.step()
    adapted = adapt(head, support, support_y, steps=steps, lr=0.2)
    torch.testing.assert_close(adapted.weight, layer.weight, rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(adapted.bias, layer.bias, rtol=1e-12, atol=1e-14)


def test_support_is_drawn_class_by_class_in_table_order(splits):
    y = splits["train"].y
    rows = draw_support(y, 5, 2, torch.Generator().manual_seed(60))
    g = torch.Generator().manual_seed(60)
    expected = []
    for label in (0, 1):
        members = [i for i, value in enumerate(y.tolist()) if value == label]
        expected += [members[i] for i in torch.randperm(len(members), generator=g)[:5]]
    assert rows.tolist() == expected


def test_a_small_class_gives_all_it_has_and_it_is_logged_once(splits, erm_head, caplog):
    rows = draw_support(torch.tensor([0, 0, 0, 1, 0]), 2, 2, torch.Generator().manual_seed(0))
    assert 3 in rows.tolist()
    assert len(rows) == 3
    few = replace(
        splits["val"], image_id=splits["val"].image_id[:50], **{
            name: getattr(splits["val"], name)[:50] for name in ("features", "y", "attribute")
        }
    )  # fmt: skip
    counts = torch.bincount(few.y)
    with caplog.at_level(logging.WARNING, "hsfm"):
        result = train(few, splits["val"], erm_head, **{**SETTINGS, "support_per_class": 40, "epochs": 1})
    assert result.support_rows.shape == (2, 50)
    small = [m for m in caplog.messages if "taking all" in m]
    assert small == [f"support_per_class is 40; class class {i} has {counts[i]} images: taking all" for i in (0, 1)]


def by_the_book(splits, erm_head, seed, s):
    """methods.md section 2, written down once more with torch's own optimisers and plain loops."""
    tr, val = splits["train"], splits["val"]
    rows = draw_support(tr.y, s["support_per_class"], 2, torch.Generator().manual_seed(seed))
    h, y = torch.nn.Parameter(tr.features[rows].clone()), tr.y[rows]
    layer = torch.nn.Linear(12, 2)
    layer.load_state_dict({"weight": erm_head.weight, "bias": erm_head.bias})
    adam_h, adam_head = torch.optim.Adam([h], lr=s["outer_lr"]), torch.optim.Adam(layer.parameters(), lr=s["inner_lr"])
    best, kept, worst_groups = -1.0, None, []
    for epoch in range(1, s["epochs"] + 1):
        with torch.no_grad():
            ce = cross_entropy(layer(val.features), val.y, reduction="none")
        hard = []
        for label in (0, 1):
            members = sorted((i for i in range(len(val.y)) if val.y[i] == label), key=lambda i: (-float(ce[i]), i))
            hard += members[: s["hard_per_class"]]
        for _ in range(s["support_steps"]):
            w, b = layer.weight, layer.bias
            for _ in range(s["inner_steps"]):
                gw, gb = torch.autograd.grad(cross_entropy(h @ w.T + b, y), (w, b), create_graph=True)
                w, b = w - s["inner_lr"] * gw, b - s["inner_lr"] * gb
            outer = cross_entropy(val.features[hard] @ w.T + b, val.y[hard])
            (h.grad,) = torch.autograd.grad(outer, [h])
            torch.nn.utils.clip_grad_norm_([h], 10.0)
            adam_h.step()
        for _ in range(s["inner_steps"]):
            adam_head.zero_grad()
            cross_entropy(layer(h.detach()), y).backward()
            adam_head.step()
        with torch.no_grad():
            correct = layer(val.features).argmax(1) == val.y
        worst_groups.append(min(float(correct[val.group == g].double().mean()) for g in range(4)))
        if worst_groups[-1] >= best:
            best, kept = worst_groups[-1], (epoch, layer.weight.detach().clone(), h.detach().clone())
    return kept, worst_groups


def test_training_is_the_published_procedure(splits, erm_head):
    settings = {**SETTINGS, "epochs": 6}
    result = train(splits["train"], splits["val"], erm_head, **settings)
    for i, seed in enumerate(settings["seeds"]):
        (epoch, weight, support), worst_groups = by_the_book(splits, erm_head, seed, settings)
        assert int(result.kept_epoch[i]) == epoch
        torch.testing.assert_close(result.head.weight[i], weight, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(result.support_after[i], support, rtol=1e-3, atol=1e-3)
        history = result.history[result.history["seed"] == seed]
        assert history["val_worst_group"].tolist() == pytest.approx(worst_groups, abs=0.02)
        assert history.loc[history["kept"], "epoch"].tolist() == [epoch]


def test_it_raises_the_worst_group(splits, erm_head):
    test = splits["test"]
    result = train(splits["train"], splits["val"], erm_head, **SETTINGS)
    before = worst(accuracy_by(erm_head.predict(test.features) == test.y, test.group, 4))
    after = worst(accuracy_by(result.head.predict(test.features) == test.y, test.group, 4))
    assert (after >= before + 0.10).all(), (float(before), after.tolist())
    share = result.history.groupby("epoch")["minority_share"].mean()
    assert share[1] > 0.9
    assert share[20] < share[1]


def test_the_result_says_what_was_edited(splits, erm_head):
    tr = splits["train"]
    result = train(tr, splits["val"], erm_head, **{**SETTINGS, "epochs": 3})
    assert result.head.weight.shape == (2, 2, 12)
    assert result.support_after.shape == (2, 48, 12)
    assert torch.equal(result.support_before, tr.features[result.support_rows])
    assert torch.equal(result.support_y, tr.y[result.support_rows])
    assert result.support_id[1][7] == tr.image_id[int(result.support_rows[1, 7])]
    assert not torch.equal(result.support_after, result.support_before)
    assert (result.head_change > 0).all()


def test_equal_seeds_give_equal_bytes_whatever_stands_beside_them(splits, erm_head):
    settings = {**SETTINGS, "epochs": 3}
    both = train(splits["train"], splits["val"], erm_head, **settings)
    torch.manual_seed(99)
    alone = train(splits["train"], splits["val"], erm_head, **{**settings, "seeds": [1]})
    assert torch.equal(alone.head.weight[0], both.head.weight[1])
    assert torch.equal(alone.support_after[0], both.support_after[1])
    assert not torch.equal(both.head.weight[0], both.head.weight[1])


def test_inputs_are_left_alone(splits, erm_head):
    before = splits["train"].features.clone(), erm_head.weight.clone()
    train(splits["train"], splits["val"], erm_head, **{**SETTINGS, "epochs": 1})
    assert torch.equal(splits["train"].features, before[0])
    assert torch.equal(erm_head.weight, before[1])


def test_groups_only_choose_the_epoch(splits, erm_head):
    """Other attributes may change which epoch is kept, and nothing else; without groups nothing changes at all."""
    tr, val = splits["train"], splits["val"]
    shuffled = replace(
        val, attribute=val.attribute[torch.randperm(len(val.y), generator=torch.Generator().manual_seed(0))]
    )
    unknown = replace(val, attribute=torch.full_like(val.attribute, -1))
    blind_train = replace(tr, attribute=torch.full_like(tr.attribute, -1))
    settings = {**SETTINGS, "epochs": 4, "select_by": "worst_class"}
    expected = train(tr, val, erm_head, **settings)
    for other in (train(tr, shuffled, erm_head, **settings), train(blind_train, unknown, erm_head, **settings)):
        assert torch.equal(other.head.weight, expected.head.weight)
    columns = ["seed", "epoch", "outer_loss", "val_average"]
    by_group = train(tr, shuffled, erm_head, **{**settings, "select_by": "worst_group"})
    assert by_group.history[columns].equals(expected.history[columns])
    assert train(blind_train, unknown, erm_head, **settings).history["minority_share"].isna().all()


def test_the_first_epoch_uses_exactly_the_hard_set_given(splits, erm_head, monkeypatch):
    used = []
    original = meta.meta_gradient

    def record(head, support, support_y, hard, hard_y, **settings):
        used.append(hard)
        return original(head, support, support_y, hard, hard_y, **settings)

    monkeypatch.setattr(meta, "meta_gradient", record)
    tr, val = splits["train"], splits["val"]
    hard_set = build(erm_head, val, per_class=30)
    settings = {**SETTINGS, "seeds": [0], "epochs": 2, "support_steps": 1}
    given = train(tr, val, erm_head, **settings, first_hard_set=hard_set)
    found = train(tr, val, erm_head, **settings)
    assert torch.equal(used[0], val.features[hard_set.chosen])
    assert torch.equal(used[0], used[2])
    assert torch.equal(given.head.weight, found.head.weight)

    other = replace(hard_set, chosen=hard_set.rank > 90)
    used.clear()
    train(tr, val, erm_head, **settings, first_hard_set=other)
    assert torch.equal(used[0], val.features[other.chosen])
    assert not torch.equal(used[1], used[0]), "the second epoch chooses anew"

    used.clear()
    train(tr, val, erm_head, **{**settings, "epochs": 3}, refresh="never", first_hard_set=other)
    assert all(torch.equal(hard, used[0]) for hard in used)


def test_later_epochs_choose_under_the_current_head(splits, erm_head, monkeypatch):
    heads, used = [], []
    original = meta.meta_gradient

    def record(head, support, support_y, hard, hard_y, **settings):
        heads.append(Head(head.weight.detach().clone(), head.bias.detach().clone()))
        used.append(hard)
        return original(head, support, support_y, hard, hard_y, **settings)

    monkeypatch.setattr(meta, "meta_gradient", record)
    val = splits["val"]
    train(splits["train"], val, erm_head, **{**SETTINGS, "seeds": [0], "epochs": 4, "support_steps": 1})
    for head, hard in zip(heads, used, strict=True):
        assert torch.equal(hard, val.features[choose(losses(head, val.features, val.y), val.y, 30)])


@pytest.mark.parametrize("rule", ["worst_group", "worst_class", "hard_loss"])
def test_the_kept_epoch_is_the_last_of_the_best(splits, erm_head, rule):
    history = train(splits["train"], splits["val"], erm_head, **{**SETTINGS, "seeds": [3]}, select_by=rule).history
    value = -history["hard_loss"] if rule == "hard_loss" else history[f"val_{rule}"]
    assert history.loc[history["kept"], "epoch"].tolist() == [history.loc[value == value.max(), "epoch"].max()]


def test_without_meta_steps_the_support_stays_as_drawn(splits, erm_head):
    result = train(splits["train"], splits["val"], erm_head, **{**SETTINGS, "support_steps": 0, "epochs": 2})
    assert torch.equal(result.support_after, result.support_before)
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
        result = train(easy, splits["val"], sharp, **{**SETTINGS, "seeds": [0], "epochs": 3})
        assert float(result.moved[0]) < meta.DEAD_SHARE
        assert "seed 0: the head hardly moved (0.0 % of the validation predictions" in caplog.text
        caplog.clear()
        train(tr, splits["val"], erm_head, **{**SETTINGS, "seeds": [0]})
        assert "hardly moved" not in caplog.text


def test_more_than_two_classes():
    counts = {"train": [190, 10, 10, 190, 190, 10], "val": [30] * 6}
    tr, val = (planted(split, counts[split], seed=i, classes=3) for i, split in enumerate(counts))
    head = Head(torch.zeros(3, 12), torch.zeros(3))
    result = train(tr, val, head, **{**SETTINGS, "select_by": "worst_class"})
    assert result.head.weight.shape == (2, 3, 12)
    accuracy = accuracy_by(result.head.predict(val.features) == val.y, val.y, 3)
    assert (accuracy > 0.6).all()


def test_minority_is_rarer_in_the_class_than_in_train(splits):
    val = splits["val"]
    assert torch.equal(minority_rows(splits["train"], val), val.y != val.attribute)
    balanced = planted("train", [10, 20, 30, 60], seed=0)
    assert not minority_rows(balanced, val).any(), "equal shares make no minority"


def test_the_support_file(tmp_path, splits, erm_head):
    result = train(splits["train"], splits["val"], erm_head, **{**SETTINGS, "epochs": 1})
    meta.write_support(tmp_path / "support.parquet", result, splits["train"])
    table = pq.read_table(tmp_path / "support.parquet")
    assert table.column_names == ["seed", "image_id", "y", "before", "after"]
    assert table["seed"].to_pylist() == [0] * 48 + [1] * 48
    assert table["image_id"].to_pylist()[50] == result.support_id[1][2]
    assert table["after"].to_pylist()[50] == result.support_after[1, 2].tolist()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"support_per_class": 0}, "support_per_class: 0 is not a positive whole number"),
        ({"inner_steps": 0}, "inner_steps: 0"),
        ({"epochs": -1}, "epochs: -1"),
        ({"hard_per_class": 0}, "hard_per_class: 0"),
        ({"support_steps": -1}, "support_steps: -1 is negative"),
        ({"inner_lr": 0.0}, "inner_lr: 0.0 is not a positive number"),
        ({"outer_lr": float("nan")}, "outer_lr: nan"),
        ({"refresh": "step"}, "refresh: 'step' is unknown; allowed are epoch, never"),
        ({"select_by": "loss"}, "select_by: 'loss' is unknown; allowed are worst_group, worst_class, hard_loss"),
        ({"seeds": [1, 1]}, r"seeds: \[1, 1\] is empty or repeats"),
        ({"seeds": []}, r"seeds: \[\] is empty"),
    ],
)
def test_settings_out_of_range_are_named(splits, erm_head, change, message):
    with pytest.raises(ValueError, match=message):
        train(splits["train"], splits["val"], erm_head, **{**SETTINGS, **change})


def test_inputs_that_do_not_belong_together_are_named(splits, erm_head):
    tr, val = splits["train"], splits["val"]
    with pytest.raises(ValueError, match="train and val embeddings differ in checkpoint"):
        train(tr, replace(val, checkpoint_sha256="b" * 64), erm_head, **SETTINGS)
    with pytest.raises(ValueError, match=r"head: weight is \[2, 5\], expected \[2, 12\]"):
        train(tr, val, Head(torch.zeros(2, 5), torch.zeros(2)), **SETTINGS)
    blind = replace(val, attribute=torch.where(val.attribute == 1, -1, val.attribute))
    with pytest.raises(ValueError, match=r'select_by="worst_group" needs the attribute of every val image; 120 of 240'):
        train(tr, blind, erm_head, **SETTINGS)
