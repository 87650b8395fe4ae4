"""Bootstrap resampling of images within their groups, for confidence intervals of accuracies.

Images are drawn within their group: how many a split has of each is a choice of whoever made it, not chance. All
heads are scored on the same resamples, so that differences between them are paired.

Letters: n images, g groups, h heads, b resamples. Knows no torch.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

RESAMPLES = 10_000
ENDS = (0.025, 0.975)
_AT_ONCE = 2_000_000  # counts in memory


def resample(
    correct: Bool[np.ndarray, "n h"], group: Int[np.ndarray, " n"], *, resamples: int = RESAMPLES, seed: int = 0
) -> Float[np.ndarray, "b g h"]:
    """Accuracies of every head on every group (in ascending order of their numbers) in each resample, as fractions.

    Images of a group that the same heads get right are exchangeable: to draw n images is to draw how many there are of
    each such pattern, which is multinomial. That is exact and as fast as there are few patterns.
    """
    rng = np.random.default_rng(seed)
    return np.stack([_resample(correct[group == g], resamples, rng) for g in np.unique(group)], axis=1)


def _resample(correct: Bool[np.ndarray, "n h"], resamples: int, rng: np.random.Generator) -> Float[np.ndarray, "b h"]:
    packed, counts = np.unique(np.packbits(correct, axis=1), axis=0, return_counts=True)
    # the common ones first: once all images of a resample are drawn, numpy skips the others
    order = np.argsort(-counts, kind="stable")
    patterns = np.unpackbits(packed[order], axis=1, count=correct.shape[1]).astype(float)
    shares = counts[order] / len(correct)
    size = max(1, _AT_ONCE // len(counts))
    pieces = [
        rng.multinomial(len(correct), shares, size=min(size, resamples - start)) @ patterns
        for start in range(0, resamples, size)
    ]
    return np.concatenate(pieces) / len(correct)


def interval(draws: Float[np.ndarray, " b"]) -> Float[np.ndarray, " 2"]:
    """The percentile interval of 95 %: for plain means, whose draws lie about what was observed."""
    return np.quantile(draws, ENDS)


def lowest_interval(
    draws: Float[np.ndarray, "b g h"], observed: Float[np.ndarray, "g h"], weights: Float[np.ndarray, " h"]
) -> Float[np.ndarray, " 2"]:
    """An interval for the mean over heads of their lowest group accuracy.

    It goes from the lowest of the lower ends of the groups' own intervals to the lowest of their upper ends; a group is
    each one for all heads, or for each head its own lowest. The lowest of several draws lies below the observed one, so
    that the percentile interval of the minimum holds the truth too rarely. weights: of the heads, with sum 1.
    """
    own = np.take_along_axis(draws, observed.argmin(0)[None, None, :], axis=1)  # [b 1 h]
    candidates = np.concatenate([draws, own], axis=1) @ weights
    return np.array([min(ends) for ends in zip(*map(interval, candidates.T), strict=True)])


def difference_interval(draws: Float[np.ndarray, " b"], observed: float) -> Float[np.ndarray, " 2"]:
    """The percentile interval of a difference's draws, joined with the same interval moved by their bias.

    Each of two lowest accuracies is lower in a resample than in the sample, the one with more groups near it by more;
    the move takes that out. Joined they are a little long where groups are level, not short where few images differ.
    """
    ends = interval(draws)
    moved = ends + (observed - draws.mean())
    return np.array([min(ends[0], moved[0]), max(ends[1], moved[1])])
