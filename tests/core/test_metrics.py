import pytest
import torch
from sklearn.metrics import accuracy_score, recall_score

from hsfm.core.metrics import accuracy_by, worst


@pytest.fixture
def data():
    g = torch.Generator().manual_seed(0)
    y = torch.randint(0, 3, (200,), generator=g)
    attribute = torch.randint(0, 2, (200,), generator=g)
    predictions = torch.where(torch.rand(4, 200, generator=g) < 0.7, y, torch.randint(0, 3, (4, 200), generator=g))
    return predictions, y, attribute


def test_accuracies_are_scikit_learns(data):
    predictions, y, attribute = data
    group = y * 2 + attribute
    ours = accuracy_by(predictions == y, group, 6)
    for s in range(4):
        for g in range(6):
            rows = group == g
            assert float(ours[s, g]) == pytest.approx(accuracy_score(y[rows], predictions[s][rows]), abs=1e-15)
        # per class, accuracy is scikit-learn's recall
        recall = recall_score(y, predictions[s], average=None)
        assert accuracy_by(predictions[s] == y, y, 3).tolist() == pytest.approx(recall.tolist(), abs=1e-15)


def test_empty_parts_are_nan_and_left_out_of_the_worst():
    correct = torch.tensor([True, False, True])
    accuracies = accuracy_by(correct, torch.tensor([0, 0, 2]), 4)
    assert accuracies.isnan().tolist() == [False, True, False, True]
    assert float(worst(accuracies)) == 0.5


def test_unknown_parts_count_nowhere():
    found = accuracy_by(torch.tensor([True, True, False]), torch.tensor([-1, 1, 1]), 2)
    assert found.tolist() == pytest.approx([float("nan"), 0.5], nan_ok=True)
