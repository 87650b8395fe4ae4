import pytest
import torch

from hsfm.core.files import write_parquet
from hsfm.heads.hard_set import build
from hsfm.heads.scorer import Scorer
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import hsfm
from hsfm.methods.hsfm.support import read_support
from hsfm.methods.hsfm.train import train
from tests.methods.small import settings_of

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
