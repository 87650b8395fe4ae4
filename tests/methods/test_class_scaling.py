import pytest
import torch

from hsfm.heads.head import Head
from hsfm.heads.scorer import Scorer
from hsfm.heads.supervision import fit_supervised
from hsfm.methods import class_scaling
from tests.conftest import planted
from tests.methods.small import worst_group


def fit(val, erm, select_by="worst_class", **settings):
    settings = class_scaling.Settings(select_by=select_by, **settings)
    return fit_supervised(class_scaling, val, val, erm, settings=settings, seeds=(7, 8))


@pytest.mark.parametrize("rule", ["worst_class", "worst_group", "average"])
def test_no_threshold_scores_better(splits, erm_head, rule):
    val = splits["val"]
    tilted = Head(erm_head.weight, erm_head.bias + torch.tensor([3.0, 0.0]))
    result, labels = fit(val, tilted, rule, offsets=1000)
    assert labels == ("selection" if rule == "worst_group" else "none")
    scorer, logits = Scorer(val, rule), tilted.logits(val.features)
    margin = (logits[:, 1] - logits[:, 0]).sort().values
    thresholds = torch.cat([margin[:1] - 1, (margin[1:] + margin[:-1]) / 2, margin[-1:] + 1])
    every = logits.repeat(len(thresholds), 1, 1)
    every[..., 1] -= thresholds[:, None]
    assert float(scorer(result.head.logits(val.features))) == float(scorer(every).max())
    assert torch.equal(result.head.weight[0], erm_head.weight), "nothing is trained"


def test_of_three_classes_no_offset_helps_further():
    val = planted("val", [30] * 6, seed=4, classes=3)
    erm = Head(torch.eye(12)[1:4], torch.tensor([0.0, 2.0, -2.0]))
    head = fit(val, erm, offsets=1000)[0].head[0]
    scorer = Scorer(val, "worst_class")
    found = float(scorer(head.logits(val.features)))
    assert found > float(scorer(erm.logits(val.features)))
    for label in (1, 2):
        for change in torch.linspace(-4, 4, 81):
            moved = head.logits(val.features)
            moved[:, label] += change
            assert float(scorer(moved)) <= found


def test_it_cannot_change_what_the_head_looks_at(splits):
    attribute = Head(torch.tensor([[-1.0], [1.0]]) * torch.eye(12)[:1], torch.zeros(2))
    result, _ = fit(splits["val"], attribute, "worst_group")
    assert worst_group(result.head, splits["test"]) < 0.05
    assert float(result.head.bias[0, 1] - result.head.bias[0, 0]) == 0, "of equal ones the smallest change"


def test_a_head_that_is_best_already_stays(splits):
    best = Head(torch.stack([10 * torch.eye(12)[1], 10 * torch.eye(12)[2]]), torch.zeros(2))
    apart = planted("val", [20] * 4, seed=1)
    apart.features[:, 1:3] = 10 * torch.eye(2)[apart.y]
    assert torch.equal(fit(apart, best)[0].head.bias[0], torch.zeros(2))
