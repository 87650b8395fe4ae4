import pytest
import torch
from sklearn.metrics import accuracy_score

from hsfm.scores import score


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (200,), generator=g)
    attribute = torch.randint(0, 2, (200,), generator=g)
    predictions = torch.where(torch.rand(4, 200, generator=g) < 0.7, y, torch.randint(0, 3, (4, 200), generator=g))
    return predictions, y, attribute


def test_score_rows(data):
    predictions, y, attribute = data
    names = {"class_names": ("a", "b", "c"), "attribute_names": ("x", "y")}
    frame = score(predictions, y, attribute, seeds=[3, 4, 5, 6], **names)
    assert len(frame) == 4 * 6
    for s, seed in enumerate([3, 4, 5, 6]):
        part = frame[frame["seed"] == seed]
        assert part["n"].sum() == 200
        assert part["correct"].sum() / 200 == accuracy_score(y, predictions[s])
        assert part["group"].tolist() == list(range(6))
        assert part["group_name"].tolist()[:2] == ["a, x", "a, y"]
    assert (frame["accuracy"] == frame["correct"] / frame["n"]).all()


def test_score_keeps_empty_groups_and_unknown_attributes():
    y, attribute = torch.tensor([0, 0, 1]), torch.tensor([0, -1, 1])
    frame = score(
        torch.tensor([[0, 1, 1]]), y, attribute, seeds=[0], class_names=("a", "b"), attribute_names=("x", "y")
    ).set_index("group_name")
    assert frame["n"].to_dict() == {"a, x": 1, "a, y": 0, "a, unknown": 1, "b, x": 0, "b, y": 1}
    assert frame["accuracy"].isna().tolist() == [False, True, False, True, False]
    assert frame["group"].isna().tolist() == [False, False, True, False, False]
