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
    "worst_group": lambda e, rows: list(zip(e.y.tolist(), e.attribute.tolist(), strict=True)),
    "worst_value": lambda e, rows: list(zip(e.y.tolist(), e.attribute.tolist(), strict=True)),  # of one attribute
    "worst_class": lambda e, rows: e.y.tolist(),
    "average": lambda e, rows: [0] * len(e.y),
    "inferred_group": lambda e, rows: [
        (int(y), int(row) % 3 == 2) for y, row in zip(e.y, range(240) if rows is None else rows, strict=True)
    ],
}


def scorer_by(rule, val, doubt=""):
    """With, in place of inferred groups, those of another division."""
    other = replace(val, attribute=torch.arange(len(val.y)) % 3 // 2)
    return Scorer(val, rule, (other, doubt) if rule == "inferred_group" else None)


@pytest.mark.parametrize("rows", [None, torch.arange(0, 240, 4)])
@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_plain_counting(splits, logits, rule, rows):
    val = splits["val"]
    part = val if rows is None else val.take(rows)
    logits = logits if rows is None else logits[:, rows]
    scorer = scorer_by(rule, val)
    scores, averages = scorer(logits, rows), scorer.measures(logits, rows)["val_average"]
    for s in range(3):
        correct = [one == y for one, y in zip(logits[s].argmax(-1).tolist(), part.y.tolist(), strict=True)]
        assert float(scores[s]) == pytest.approx(counted(correct, PARTS[rule](part, rows)), abs=1e-12)
        assert float(averages[s]) == pytest.approx(sum(correct) / len(correct), abs=1e-12)
    assert float(scorer(logits[0], rows)) == float(scores[0]), "one head has one score"
    assert torch.equal(scorer.of_classes(logits.argmax(-1), rows), scores)


@pytest.mark.parametrize("rule", RULES)
def test_it_knows_whether_it_was_asked(splits, logits, rule):
    scorer = scorer_by(rule, splits["val"])
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


def test_where_nothing_is_inferred_the_worst_class_decides_and_it_is_said(splits, logits):
    scorer = scorer_by("inferred_group", splits["val"], doubt="the attribute shows no two clouds")
    assert torch.equal(scorer(logits), Scorer(splits["val"], "worst_class")(logits))
    assert scorer.in_words == "worst class (no groups inferred: the attribute shows no two clouds)"
    assert scorer_by("inferred_group", splits["val"]).in_words == "worst inferred group"
    for rule, inferred in (("inferred_group", None), ("average", (splits["val"], ""))):
        with pytest.raises(ValueError, match=f"goes with the rule inferred_group, and with no other; .* {rule}"):
            Scorer(splits["val"], rule, inferred)


@pytest.mark.parametrize("rows", [None, torch.arange(0, 240, 4)])
def test_of_several_attributes_there_are_cells_and_each_ones_values(splits, logits, rows):
    """Cells of fewer than min_group rows of all of val are not the worst group; values of one attribute are as they
    are."""
    size = torch.arange(240) % 7 // 2  # of the second attribute, 0 to 3; of 3 there are fewest
    one = splits["val"]
    values = {"place": ("left",) * 4 + ("right",) * 4, "size": ("s", "m", "l", "xl") * 2}
    names = tuple(map(str, range(8)))
    val = replace(one, attribute=4 * one.attribute + size, attribute_names=names, cells=values, min_group=15)
    own = slice(None) if rows is None else rows
    logits = logits[:, own]
    y, place, size = one.y[own].tolist(), one.attribute[own].tolist(), size[own].tolist()
    sizes = torch.bincount(val.group)
    groups = list(zip(y, place, size, strict=True))
    large = [sizes[group] >= 15 for group in val.group[own].tolist()]
    assert 0 < sum(large) < len(large), "min_group leaves some out"
    for s, one_head in enumerate(logits.argmax(-1).tolist()):
        correct = [a == b for a, b in zip(one_head, y, strict=True)]
        kept = [(right, group) for right, group, ok in zip(correct, groups, large, strict=True) if ok]
        assert float(Scorer(val, "worst_group")(logits, rows)[s]) == counted(*zip(*kept, strict=True))
        each = min(counted(correct, list(zip(y, of, strict=True))) for of in (place, size))
        by_value = Scorer(val, "worst_value")
        assert torch.equal(by_value.of_classes(logits.argmax(-1), rows), by_value(logits, rows))
        assert float(Scorer(val, "worst_value")(logits, rows)[s]) == each
