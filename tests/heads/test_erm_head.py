import logging
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from hsfm.heads import erm_head
from hsfm.heads.erm_head import ERMHeadSettings, fit_head
from tests.conftest import planted


def objective(weight, bias, train, c):
    """scikit-learn's, divided by C n: penalized mean cross-entropy."""
    logits = train.features.double() @ weight.T + bias
    return cross_entropy(logits, train.y) + (weight**2).sum() / (2 * c * len(train.y))


def minimize(train, c):
    """The oracle: torch's own L-BFGS on the softmax form."""
    weight, bias = (torch.zeros(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 12), (3,)))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=2000, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = objective(weight, bias, train, c)
        loss.backward()
        return loss

    optimizer.step(closure)
    return weight.detach(), bias.detach() - bias.detach().mean()


def test_three_classes_are_the_minimum_of_the_penalized_loss():
    train = planted("train", [60, 10, 40, 40, 10, 60], seed=3, classes=3)
    head = fit_head(train, ERMHeadSettings(C=0.1))[0]
    weight, bias = minimize(train, 0.1)
    torch.testing.assert_close(head.weight.double(), weight, atol=1e-4, rtol=0)
    torch.testing.assert_close(head.bias.double() - head.bias.mean(), bias, atol=1e-4, rtol=0)


def test_two_classes_are_stationary(splits):
    """The row w of the binary form has half the penalty in the two rows -w/2 and w/2."""
    train, c = splits["train"], 0.3
    head = fit_head(train, ERMHeadSettings(C=c))[0]
    weight, bias = (part.double().requires_grad_() for part in (head.weight, head.bias))
    loss = objective(weight, bias, train, c / 2)  # |w|^2 = 2 (|-w/2|^2 + |w/2|^2)
    gradients = torch.autograd.grad(loss, [weight, bias])
    assert max(float(gradient.abs().max()) for gradient in gradients) < 1e-6
    assert torch.equal(head.weight[0], -head.weight[1])


def test_it_repeats_and_reads_no_attribute(splits):
    train = splits["train"]
    first, again = fit_head(train), fit_head(replace(train, attribute=torch.full_like(train.attribute, -1)))
    assert torch.equal(first.weight, again.weight)
    assert torch.equal(first.bias, again.bias)


def test_an_early_end_is_said(splits, caplog, monkeypatch):
    with caplog.at_level(logging.WARNING, logger="hsfm.heads.erm_head"):
        fit_head(splits["train"])
        assert not caplog.messages
        monkeypatch.setattr(erm_head, "MAX_ITER", 2)
        fit_head(splits["train"])
    assert len(caplog.messages) == 1
    assert "not converged after 2 iterations" in caplog.text


def test_it_refuses_the_test_split(splits):
    with pytest.raises(ValueError, match="the ERM head was given the test split"):
        fit_head(splits["test"])
