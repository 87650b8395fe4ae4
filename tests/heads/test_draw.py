import torch

from hsfm.heads.draw import draw_per_class


def test_support_is_drawn_class_by_class_in_table_order(splits):
    y = splits["train"].y
    rows = draw_per_class(y, 5, 2, torch.Generator().manual_seed(60))
    g = torch.Generator().manual_seed(60)
    expected = []
    for label in (0, 1):
        members = [i for i, value in enumerate(y.tolist()) if value == label]
        expected += [members[i] for i in torch.randperm(len(members), generator=g)[:5]]
    assert rows.tolist() == expected
