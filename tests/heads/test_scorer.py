from dataclasses import replace

import pytest
import torch

from hsfm.heads.scorer import RULES, Scorer


@pytest.fixture
def logits(splits):
    """Of three heads, which get about two thirds of the rows right."""
    y = splits["val"].y
    noise = torch.randn(3, len(y), 2, generator=torch.Generator().manual_seed(0))
    return noise + torch.nn.functional.one_hot(y, 2)


def counted(correct, part):
    """The lowest share of correct rows of any part."""
    shares = []
    for value in sorted(set(part)):
        own = [right for right, of in zip(correct, part, strict=True) if of == value]
        shares.append(sum(own) / len(own))
    return min(shares)


PARTS = {
    "worst_group": lambda e: list(zip(e.y.tolist(), e.attribute.tolist(), strict=True)),
    "worst_class": lambda e: e.y.tolist(),
    "average": lambda e: [0] * len(e.y),
}


@pytest.mark.parametrize("rows", [None, torch.arange(0, 240, 3)])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_plain_counting(splits, logits, rule, rows):
    val = splits["val"]
    part = val if rows is None else val.take(rows)
    logits = logits if rows is None else logits[:, rows]
    scorer = Scorer(val, rule)
    scores, averages = scorer(logits, rows), scorer.measures(logits, rows)["val_average"]
    for s in range(3):
        correct = [one == y for one, y in zip(logits[s].argmax(-1).tolist(), part.y.tolist(), strict=True)]
        assert float(scores[s]) == pytest.approx(counted(correct, PARTS[rule](part)), abs=1e-12)
        assert float(averages[s]) == pytest.approx(sum(correct) / len(correct), abs=1e-12)
    assert float(scorer(logits[0], rows)) == float(scores[0]), "one head has one score"


@pytest.mark.parametrize("rule", RULES)
def test_it_knows_whether_it_was_asked(splits, logits, rule):
    scorer = Scorer(splits["val"], rule)
    measures = scorer.measures(logits)
    assert not scorer.asked
    assert torch.equal(scorer(logits), measures[f"val_{rule}"])
    assert scorer.asked


def test_without_attributes_there_is_no_worst_group(splits, logits):
    blind = splits["val"].without_attributes()
    measures = Scorer(blind, "worst_class").measures(logits)
    known = Scorer(splits["val"], "worst_class").measures(logits)
    assert measures["val_worst_group"].isnan().all()
    assert torch.equal(measures["val_worst_class"], known["val_worst_class"])
    assert torch.equal(Scorer(blind, "average")(logits), known["val_average"])
    some = replace(blind, attribute=torch.where(torch.arange(240) == 7, -1, splits["val"].attribute))
    message = r'select_by="worst_group" needs the attribute of every val image; 1 of 240 lack it, first \'val-0007\''
    with pytest.raises(ValueError, match=message):
        Scorer(some, "worst_group")
