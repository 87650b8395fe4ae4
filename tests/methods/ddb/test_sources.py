import numpy as np
import pytest
from torch.nn.functional import cross_entropy

from hsfm.methods.ddb.sources import choose_sources
from tests.conftest import planted


def test_sources_are_the_images_of_lowest_loss_of_each_class(splits, erm_head):
    train = splits["train"]
    sources = choose_sources(erm_head, train, 7)
    loss = cross_entropy(erm_head.logits(train.features), train.y, reduction="none")
    for y in (0, 1):
        expected = sorted((float(loss[i]), train.image_id[i]) for i in range(len(train.y)) if train.y[i] == y)[:7]
        part = sources[sources["y"] == y]
        assert part["image_id"].tolist() == [name for _, name in expected]
        assert part["rank"].tolist() == list(range(1, 8))
        np.testing.assert_allclose(part["loss"], [value for value, _ in expected])


def test_a_class_with_few_images_gives_all_and_says_so(erm_head, caplog):
    train = planted("train", [3, 1, 5, 5], seed=3)
    sources = choose_sources(erm_head, train, 6)
    assert sources.groupby("y").size().tolist() == [4, 6]
    assert "class 0 has 4 training images, fewer than 6 sources" in caplog.text


def test_the_test_split_is_refused(splits, erm_head):
    with pytest.raises(ValueError, match="DDB was given the test split"):
        choose_sources(erm_head, splits["test"], 2)
