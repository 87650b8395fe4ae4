"""Standardization of features, which step sizes for fine-tuned networks ask of frozen ones; folding it into a head."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field, PositiveFloat
from torch import Tensor

from hsfm.core.files import read_safetensors, write_safetensors
from hsfm.core.settings import FrozenSettings

BLOCK_BYTES = 2**21  # of the features that are summed at once, on which the last bits of the sums depend
# Rows that the spread of a feature rests on, and share of all, below which it is wild: up to three, as the columns of
# HAM10000 that asked for it. By 5 or 10 rows LLR gained no more on halves of validation (docs/how-to/own-backbone.md).
FEW, SHARE = 3.5, 1 / 30


class StandardizationSettings(FrozenSettings):
    """Features brought to mean 0 and one spread, measured on train."""

    scale: PositiveFloat = Field(description="Their standard deviation afterwards.")


@dataclass(frozen=True)
class Standardization:
    """(feature - mean) * factor, the statistics from training features."""

    mean: Float[Tensor, " d"]
    factor: Float[Tensor, " d"]  # scale / spread, as `fit` has it; 0 for a feature without variation

    def apply(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        return (features - self.mean.to(features.device)) * self.factor.to(features.device)

    def undo(self, features: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Raw features of standardized ones; of one without variation, its mean."""
        factor = torch.where(self.factor == 0, 1.0, self.factor)
        return torch.where(self.factor == 0, self.mean, features / factor + self.mean)

    def fold(
        self, weight: Float[Tensor, "*s c d"], bias: Float[Tensor, "*s c"]
    ) -> tuple[Float[Tensor, "*s c d"], Float[Tensor, "*s c"]]:
        """Weight and bias on raw features that equal these on standardized ones, in their type, on the CPU."""
        arrays = (t.detach().cpu().double().numpy() for t in (weight, bias, self.mean, self.factor))
        raw_weight, raw_bias, mean, factor = arrays
        with np.errstate(divide="ignore"):  # a feature without variation has an infinite scale, and no weight
            folded = fold(raw_weight, raw_bias, mean, 1 / factor)
        return tuple(torch.from_numpy(part).to(weight.dtype) for part in folded)


def fold(
    weight: Float[np.ndarray, "*s c d"],
    bias: Float[np.ndarray, "*s c"],
    shift: Float[np.ndarray, " d"],
    scale: Float[np.ndarray, " d"],
) -> tuple[Float[np.ndarray, "*s c d"], Float[np.ndarray, "*s c"]]:
    """Weight and bias on raw features that equal these on (x - shift) / scale.

    w . (x - shift) / scale + b = (w / scale) . x + (b - (w / scale) . shift)
    """
    raw = weight / scale
    return raw, bias - raw @ shift


def fit(features: Float[Tensor, "n d"], scale: float = 1.0) -> Standardization:
    """Statistics that give these features, of the training split, mean 0 and standard deviation `scale`.

    The standard deviation divides by n; that of a wild feature is replaced, see `steadied`. All is computed in float64,
    a block of rows at a time. With the mean m and the sum of squares S about it of n rows, and those of k more, t =
    m' - m: the whole has the mean m + t k/(n + k) and the sum S + S' + t^2 n k/(n + k) (Chan, Golub, LeVeque 1983).
    """
    n, mean, squares = 0, torch.zeros(()), torch.zeros(())
    for block in _blocks(features):
        k, rows = len(block), block.double()
        block_mean = rows.mean(0)
        block_squares = (rows - block_mean).square().sum(0)
        step, total = block_mean - mean, n + k
        squares = squares + block_squares + step.square() * (n * k / total)
        mean = mean + step * (k / total)
        n = total
    deviation = (squares / n).sqrt()
    # ASSUME: a feature that is constant in train, up to float32's rounding, is left out (0 everywhere): scaled up,
    # its rounding, or what it does in other splits alone, would weigh like any other feature
    varies = deviation > 1e-6 * mean.abs()
    factor = torch.where(varies, scale / steadied(deviation, features, mean), 0.0)
    return Standardization(mean=mean.float(), factor=factor.float())


def steadied(
    deviation: Float[Tensor, " d"], features: Float[Tensor, "n d"], mean: Float[Tensor, " d"]
) -> Float[Tensor, " d"]:
    """The features' standard deviations, but of a wild feature at least the median one of all.

    A feature is wild whose spread rests on fewer than FEW rows (and SHARE of all), as one that is active in three: by
    sum(s)^2 / sum(s^2) of its squared deviations s, which is k where k rows deviate alike and all others do not. Scaled
    by its own deviation, it reaches hundreds of them where another split has it active in earnest.
    """
    squares, fourth = torch.zeros(()), torch.zeros(())
    for block in _blocks(features):
        square = (block.double() - mean).square()
        squares, fourth = squares + square.sum(0), fourth + square.square().sum(0)
    wild = squares.square() < min(FEW, SHARE * len(features)) * fourth
    usual = deviation[squares > 0].median() if wild.any() else deviation
    return torch.where(wild, deviation.maximum(usual), deviation)


def _blocks(features: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "k d"], ...]:
    return features.split(max(BLOCK_BYTES // (4 * features.shape[1]), 1))


def write_standardization(path: str | Path, standardization: Standardization, metadata: Mapping[str, str]) -> None:
    write_safetensors(path, {"mean": standardization.mean, "factor": standardization.factor}, metadata)


def read_standardization(path: str | Path) -> tuple[Standardization, dict[str, str]]:
    """Read what `write_standardization` wrote; ValueError for other tensors."""
    tensors, metadata = read_safetensors(path)
    if tensors.keys() != {"mean", "factor"}:
        raise ValueError(f"{path}: holds the tensors {', '.join(sorted(tensors))}; expected factor, mean")
    return Standardization(mean=tensors["mean"], factor=tensors["factor"]), metadata
