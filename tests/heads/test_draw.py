import torch

from hsfm.heads.draw import draw_per_class, draw_sides


def test_support_is_drawn_class_by_class_in_table_order(splits):
    y = splits["train"].y
    rows = draw_per_class(y, 5, 2, torch.Generator().manual_seed(60))
    g = torch.Generator().manual_seed(60)
    expected = []
    for label in (0, 1):
        members = [i for i, value in enumerate(y.tolist()) if value == label]
        expected += [members[i] for i in torch.randperm(len(members), generator=g)[:5]]
    assert rows.tolist() == expected


def test_both_sides_of_a_class_have_one_mass():
    y = torch.tensor([0] * 20 + [1] * 11)
    other = torch.zeros(31, dtype=torch.bool)
    other[[3, 7, 9, 22]] = True
    rows = draw_sides(y, other, 16, 2, torch.Generator().manual_seed(0))
    own_0, other_0, own_1, other_1 = (part.tolist() for part in rows.split([8, 8, 5, 5]))
    assert len({*own_0}) == 8
    assert {*own_0} <= {*range(20)} - {3, 7, 9}
    assert sorted(other_0.count(row) for row in (3, 7, 9)) == [2, 3, 3], "no row has more than one copy more"
    assert {*own_1} <= {*range(20, 31)} - {22}
    assert other_1 == [22] * 5, "a class of 11 gives 5 of each side"
