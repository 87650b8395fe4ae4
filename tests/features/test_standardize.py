import pytest
import torch
from sklearn.preprocessing import StandardScaler

from hsfm.core.files import write_safetensors
from hsfm.features import standardize
from hsfm.features.standardize import Standardization, fit, read_standardization
from hsfm.heads.head import Head


@pytest.fixture
def features():
    """Columns of very different place and spread."""
    generator = torch.Generator().manual_seed(0)
    place, spread = torch.tensor([0.0, 100.0, -3.0, 0.5]), torch.tensor([1.0, 20.0, 0.01, 1e-3])
    return torch.randn(50, 4, generator=generator) * spread + place


def test_it_is_scikit_learns_times_the_scale(features):
    ours = fit(features, 0.5).apply(features)
    theirs = 0.5 * StandardScaler().fit_transform(features.double().numpy())
    torch.testing.assert_close(ours, torch.tensor(theirs).float(), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.std(0, correction=0), torch.full((4,), 0.5), atol=1e-4, rtol=1e-4)


def test_a_folded_head_gives_the_same_logits_on_raw_features(features):
    standardization = fit(features, 0.5)
    generator = torch.Generator().manual_seed(1)
    heads = Head(torch.randn(2, 3, 4, generator=generator), torch.randn(2, 3, generator=generator))
    for head in (heads, heads[0]):
        folded = Head(*standardization.fold(head.weight, head.bias))
        assert folded.weight.dtype == torch.float32
        torch.testing.assert_close(
            folded.logits(features), head.logits(standardization.apply(features)), atol=1e-2, rtol=1e-4
        )
        exact = Head(*(part.double() for part in (head.weight, head.bias)))
        double = Standardization(standardization.mean.double(), standardization.factor.double())
        torch.testing.assert_close(
            Head(*double.fold(exact.weight, exact.bias)).logits(features.double()),
            exact.logits(double.apply(features.double())),
        )


def test_a_constant_feature_is_left_out_everywhere():
    train = torch.tensor([[0.1, 1.0, 0.0], [0.1, 2.0, 0.0], [0.1 + 1e-8, 4.0, 0.0]])
    standardization = fit(train)
    assert (standardization.factor == 0).tolist() == [True, False, True]
    other = standardization.apply(torch.tensor([[7.0, 1.0, 5.0]]))
    assert other[0, [0, 2]].tolist() == [0.0, 0.0]
    assert standardization.fold(torch.ones(2, 3), torch.zeros(2))[0][:, [0, 2]].abs().max() == 0


def wild(features, rows=3):
    """A column more, active in so many rows."""
    column = torch.zeros(len(features), 1)
    column[:rows] = 0.002
    return torch.cat([features, column], dim=1)


def test_a_wild_feature_takes_the_usual_scale_and_no_other_does():
    features = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 20.0, 0.01, 0.5])
    features[:8, 3] = 30.0  # a heavy tail that more than a few rows have
    plain, found = fit(features), fit(wild(features))
    assert torch.equal(found.factor[:4], plain.factor)
    usual = wild(features).std(0, correction=0).median()
    torch.testing.assert_close(found.factor[4], 1 / usual)
    # where another split has it in earnest
    active = wild(features)[:1].index_fill(1, torch.tensor(4), 1.0)
    assert found.apply(active)[0, 4] < 3
    theirs = StandardScaler().fit(wild(features).numpy())
    assert theirs.transform(active.numpy())[0, 4] > 1000
    again = fit(found.apply(wild(features)))
    torch.testing.assert_close(again.factor, torch.ones(5), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("rows", "n", "is_wild"), [(3, 200, True), (4, 200, False), (1, 30, False), (3, 60, False)])
def test_few_rows_of_few_are_not_wild(rows, n, is_wild):
    features = torch.randn(n, 4, generator=torch.Generator().manual_seed(1))
    spread = float(wild(features, rows)[:, 4].std(correction=0))
    assert (float(fit(wild(features, rows)).factor[4]) < 0.9 / spread) == is_wild


def test_raw_features_come_back():
    standardization = Standardization(torch.tensor([1.0, 2.0]), torch.tensor([0.5, 0.0]))
    raw = torch.tensor([[3.0, 2.0], [-1.0, 2.0]])
    torch.testing.assert_close(standardization.undo(standardization.apply(raw)), raw)


def test_nothing_changes_no_bit(features):
    unchanged = Standardization(torch.zeros(4), torch.ones(4))
    assert torch.equal(unchanged.apply(features), features)
    head = Head(torch.randn(2, 4, generator=torch.Generator().manual_seed(2)), torch.tensor([0.3, -0.7]))
    folded = Head(*unchanged.fold(head.weight, head.bias))
    assert torch.equal(folded.weight, head.weight)
    assert torch.equal(folded.bias, head.bias)


@pytest.mark.parametrize("rows", [1, 7, 20, 49, 50])
def test_blocks_have_the_moments_of_the_whole(monkeypatch, features, rows):
    """Against torch in float64; features far from 0 lose nothing."""
    monkeypatch.setattr(standardize, "BLOCK_BYTES", rows * 4 * 4)
    shifted = features + torch.tensor([0.0, 1e4, 0.0, 100.0])
    deviation, mean = torch.std_mean(shifted.double(), dim=0, correction=0)
    found = fit(shifted, 0.5)
    torch.testing.assert_close(found.mean, mean.float())
    torch.testing.assert_close(found.factor, (0.5 / deviation).float())


def test_a_file_of_other_tensors_is_named(tmp_path):
    write_safetensors(tmp_path / "heads.safetensors", {"weight": torch.ones(2), "bias": torch.ones(2)}, {})
    with pytest.raises(ValueError, match=r"heads.safetensors: holds the tensors bias, weight; expected factor, mean"):
        read_standardization(tmp_path / "heads.safetensors")
