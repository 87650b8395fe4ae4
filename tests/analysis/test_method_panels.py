import numpy as np
import pandas as pd
import pytest
from torch.nn.functional import cross_entropy

from hsfm.analysis.method_panels import (
    groups_of,
    hardest_pictures,
    held_by,
    inner_loops,
    some_of_each_group,
    support_panel,
)
from hsfm.heads.hard_set import HardSet, build
from tests.analysis.small import support_of

SETTINGS = {"inner_steps": 3, "inner_lr": 0.1, "hard_per_class": 5, "refresh": "epoch", "outer_set": "hard"}


@pytest.fixture
def first(splits, erm_head) -> HardSet:
    return build(erm_head, splits["val"], per_class=5)


def test_groups_class_by_class_and_their_minority(splits):
    groups = groups_of(splits["train"], splits["val"])
    assert groups["group_name"].tolist() == ["class 0, left", "class 0, right", "class 1, left", "class 1, right"]
    assert groups["minority"].tolist() == [False, True, True, False]


def test_support_images_of_some_groups():
    names = ["b", "a", "b", "c", "b", "b", "elsewhere"]
    found = some_of_each_group(names, ["a", "b", "c"])
    assert found == {"a": [1], "b": [0, 2, 4], "c": [3], "elsewhere": [6]}
    many = [str(number) for number in range(10)]
    assert list(some_of_each_group(many, many)) == ["0", "3", "6", "9"]


def test_the_support_panel(splits):
    train, val = splits["train"], splits["val"]
    rows = [int((train.group == group).nonzero()[0]) for group in (3, 0)]
    panel = support_panel(support_of(train, rows), train, val, lambda ids: [np.zeros((1, 1, 3))] * len(ids))
    assert panel["support_size"] == 2
    assert panel["names"] == ["class 1, right", "class 0, left"]
    assert {name: len(shown) for name, shown in panel["pictures"].items()} == {"class 0, left": 1, "class 1, right": 1}


def test_inner_loops_start_where_the_run_does(splits, erm_head, first):
    val, support = splits["val"], support_of(splits["train"], list(range(20)))
    one, other = inner_loops(erm_head, erm_head, support, val, first.chosen, 7, SETTINGS)
    assert (one["name"], other["name"]) == ("epoch 1, ERM's head", "after epoch 7, the kept head")
    assert one["support_loss"][0] == pytest.approx(float(cross_entropy(erm_head.logits(support.before), support.y)))
    assert other["support_loss"][0] == pytest.approx(float(cross_entropy(erm_head.logits(support.after), support.y)))
    assert len(one["support_loss"]) == len(one["change"]) == 4
    assert one["change"][0] == 0
    assert one["support_loss"][-1] < one["support_loss"][0]


def test_the_later_outer_set_is_ranked_anew_unless_it_stays(splits, erm_head, first):
    val, support = splits["val"], support_of(splits["train"], list(range(20)))
    some = first.chosen.roll(1)  # other rows than the hardest
    again = inner_loops(erm_head, erm_head, support, val, some, 1, SETTINGS)[1]["outer_loss"]
    assert again == inner_loops(erm_head, erm_head, support, val, first.chosen, 1, SETTINGS)[1]["outer_loss"]
    for change in ({"refresh": "never"}, {"outer_set": "random"}):
        stays = inner_loops(erm_head, erm_head, support, val, some, 1, SETTINGS | change)[1]["outer_loss"]
        assert stays != again


def test_the_hardest_class_by_class(splits, first):
    val = splits["val"]
    found = hardest_pictures(first, val, lambda ids: [np.full((1, 1, 3), val.image_id.index(one)) for one in ids])
    assert [name.split(",")[0] for _, _, name in found].count("class 0") == 4
    top = [float(first.loss[val.y == y].max()) for y in (0, 1)]
    assert [value for _, value, _ in found[:2]] == sorted(top, reverse=True)
    assert [float(first.loss[picture[0, 0, 0]]) for picture, _, _ in found] == [value for _, value, _ in found]


def test_hard_sets_of_the_first_and_the_kept_epoch(splits):
    counts = pd.DataFrame(
        [(epoch, y, a, 10 * epoch + y) for epoch in (1, 2, 3) for y, a in ((0, 1.0), (1, np.nan))],
        columns=["epoch", "y", "attribute", "n"],
    )
    held = held_by(counts, splits["val"], 3).set_index("group_name")
    assert held["first"].to_dict() == {"class 0, right": 10, "class 1, unknown": 11}
    assert held["kept"].to_dict() == {"class 0, right": 30, "class 1, unknown": 31}
