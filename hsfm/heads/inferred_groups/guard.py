"""Guard against wrong labels, which look like a minority: rows of class y in the cloud of another class's attribute.

Where they are wrong labels, nothing but the label tells them from the other rows of their cloud. Where they are real,
the class direction, fitted on train, ranks validation's rows of a cloud by their class.
"""

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import mannwhitneyu, norm

from hsfm.heads.inferred_groups.infer import softmax

SURE = 0.999  # least posterior under equal shares; rows between the clouds would smuggle the attribute in


def p_wrong_labels(
    log_density: Float[np.ndarray, "n c"], of_class: Float[np.ndarray, "n c"], y: Int[np.ndarray, " n"]
) -> float:
    """p of one-sided Mann-Whitney tests of the class within each cloud, by Stouffer's sum; 1 where no cloud has both.

    log_density: of each cloud, from x alone. of_class: score of each class by a probe that has not seen these rows.
    """
    posterior, z = softmax(log_density), []
    cloud, sure = posterior.argmax(1), posterior.max(1) > SURE
    for label in range(posterior.shape[1]):
        score, own = of_class[sure & (cloud == label), label], y[sure & (cloud == label)] == label
        if own.any() and not own.all():
            z.append(norm.isf(mannwhitneyu(score[own], score[~own], alternative="greater").pvalue))
    return float(norm.sf(sum(z) / np.sqrt(len(z)))) if z else 1.0
