from dataclasses import replace

import pyarrow.parquet as pq
import pytest
import torch

from hsfm.heads.hard_set import build, hardest, rank_in_class, read_need, write_hard_set


def test_order_and_ties():
    y = torch.tensor([0, 1, 0, 1, 0, 0])
    loss = torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0, 0.5])
    assert rank_in_class(loss, y).tolist() == [2, 1, 1, 2, 3, 4]
    rows = [(y == label).nonzero().squeeze(1) for label in (0, 1)]
    assert hardest(loss.unsqueeze(0), rows, 3).tolist() == [[2, 0, 4, 1, 3]], "a small class gives all it has"


def test_ranks_against_sorting_each_class_by_hand():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 4, (300,), generator=g)
    loss = torch.randint(0, 20, (300,), generator=g) / 4  # many ties
    rank = rank_in_class(loss, y).tolist()
    for label in range(4):
        rows = [i for i in range(300) if y[i] == label]
        expected = sorted(rows, key=lambda i: (-float(loss[i]), i))
        assert sorted(rows, key=lambda i: rank[i]) == expected
        assert sorted(rank[i] for i in rows) == list(range(1, len(rows) + 1))


def test_hardest_is_the_ranking_for_many_heads_at_once():
    g = torch.Generator().manual_seed(1)
    y = torch.randint(0, 3, (200,), generator=g)
    loss = torch.randint(0, 12, (5, 200), generator=g) / 4  # many ties
    chosen = hardest(loss, [(y == label).nonzero().squeeze(1) for label in range(3)], 9)
    for i in range(5):
        rank = rank_in_class(loss[i], y)
        assert sorted(chosen[i].tolist()) == (rank <= 9).nonzero().squeeze(1).tolist()
        assert rank[chosen[i]].tolist() == [*range(1, 10)] * 3


def test_losses_are_cross_entropy_under_the_head(splits, erm_head):
    val = splits["val"]
    hard = build(erm_head, val, per_class=10)
    p = torch.softmax(val.features @ erm_head.weight.T + erm_head.bias, dim=1)
    torch.testing.assert_close(hard.loss, -p[torch.arange(len(val.y)), val.y].log(), rtol=1e-4, atol=1e-5)
    assert hard.chosen.sum() == 20
    for label in (0, 1):
        mine = hard.y == label
        assert hard.loss[mine & hard.chosen].min() >= hard.loss[mine & ~hard.chosen].max()


def test_file_holds_every_pool_row_and_its_group_for_diagnosis_only(tmp_path, splits, erm_head):
    val, path = splits["val"], tmp_path / "hard_set.parquet"
    hard = build(erm_head, val, per_class=10)
    write_hard_set(path, hard, val)
    table = pq.read_table(path)
    assert table.column_names == ["image_id", "y", "loss", "rank", "chosen", "group"]
    assert table["group"].to_pylist() == val.group.tolist()
    read = read_need(path, val, {"hard_per_class": 10})
    assert not hasattr(read, "group")
    for name in ("y", "loss", "rank", "chosen"):
        assert torch.equal(getattr(read, name).to(getattr(hard, name).dtype), getattr(hard, name))


def test_a_hard_set_of_other_images_or_another_checkpoint_is_refused(tmp_path, splits, erm_head):
    val, path = splits["val"], tmp_path / "hard_set.parquet"
    write_hard_set(path, build(erm_head, val, per_class=10), val)
    with pytest.raises(ValueError, match=r"hard_set.parquet: built on checkpoint a+, but the embeddings are of b+"):
        read_need(path, replace(val, checkpoint_sha256="b" * 64), {"hard_per_class": 10})
    swapped = (val.image_id[1], val.image_id[0], *val.image_id[2:])
    with pytest.raises(ValueError, match=r"hard_set.parquet: lists 240 images that are not the 240 of the pool"):
        read_need(path, replace(val, image_id=swapped), {"hard_per_class": 10})
