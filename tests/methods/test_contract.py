"""Contract of every method on embeddings, a new one included."""

from importlib import import_module

import numpy as np
import pytest
import torch

from hsfm.heads.head import Head
from hsfm.heads.known_methods import found
from hsfm.heads.supervision import fit_supervised
from tests.conftest import planted
from tests.methods.small import needs_of, settings_of

METHODS = {name: method for name, method in found().items() if not method.images}


def fitted(name, train, val, erm, seeds):
    method = import_module(f"hsfm.methods.{name}")
    needs = needs_of(method, erm, val)
    return fit_supervised(method, train, val, erm, settings=settings_of(name), seeds=seeds, **needs)[0]


@pytest.mark.parametrize("name", METHODS)
def test_a_fit_is_complete(splits, erm_head, name):
    fit = fitted(name, splits["train"], splits["val"], erm_head, (4, 1))
    assert fit.seeds in ((4, 1), (4,))
    assert fit.head.weight.shape == (len(fit.seeds), 2, 12)
    assert fit.head.bias.shape == (len(fit.seeds), 2)
    assert fit.head.weight.isfinite().all()
    assert len(fit.remarks) in (0, len(fit.seeds))
    assert fit.chosen_by
    assert {*fit.tables, *(["hard_groups"] if "hard_rows" in fit.arrays else [])} == set(METHODS[name].tables)
    if "history" in fit.tables:
        history = fit.tables["history"]
        assert {"seed", "epoch", "val_average", "val_worst_group", "val_worst_class", "kept"} <= set(history)
        assert history.groupby("seed", sort=False)["kept"].sum().to_dict() == dict.fromkeys(fit.seeds, 1)


@pytest.mark.parametrize("name", METHODS)
def test_a_fit_repeats_and_seeds_do_not_know_one_another(splits, erm_head, name):
    train, val = splits["train"], splits["val"]
    before = [t.clone() for t in (train.features, val.features, erm_head.weight, erm_head.bias)]
    first = fitted(name, train, val, erm_head, (4, 1))
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the point is that it does not matter
    again = fitted(name, train, val, erm_head, (4, 1))
    assert torch.equal(first.head.weight, again.head.weight)
    for number, seed in enumerate(first.seeds):
        alone = fitted(name, train, val, erm_head, (seed,)).head
        torch.testing.assert_close(alone[0].weight, first.head[number].weight, rtol=1e-4, atol=1e-5)
    for tensor, was in zip((train.features, val.features, erm_head.weight, erm_head.bias), before, strict=True):
        assert torch.equal(tensor, was)
    with pytest.raises(ValueError, match=f"{METHODS[name].label} was given the test split of planted"):
        fitted(name, train, splits["test"], erm_head, (4,))


@pytest.mark.parametrize("name", METHODS)
def test_three_classes_have_heads(name):
    train, val = (
        planted(split, [60, 10, 10, 60, 60, 10], seed=i, classes=3) for i, split in enumerate(("train", "val"))
    )
    erm = Head(0.1 * torch.randn(3, 12, generator=torch.Generator().manual_seed(0)), torch.zeros(3))
    assert fitted(name, train, val, erm, (0,)).head.weight.shape == (1, 3, 12)
