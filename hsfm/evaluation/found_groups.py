"""Inferred groups against true ones, where these are known; the method has seen none of them."""

import pandas as pd

from hsfm.features.embeddings import Embeddings, minority_rows


def compare_found(found: pd.DataFrame, train: Embeddings, val: Embeddings) -> pd.DataFrame:
    """The table with the columns attribute and minority, and in `attrs` AUROC and balanced accuracy of the inference.

    found: one row per image of val, as IDFR leaves it; `attrs` gets attribute_names, too. Both numbers are of the
    minority within classes: of its ranking by the posterior, and of rows whose inferred attribute goes with another
    class. The table stays as it is where an attribute is unknown, or where val has no minority.
    """
    from sklearn.metrics import balanced_accuracy_score, roc_auc_score  # slow to import

    minority = minority_rows(train, val)
    if minority is None or not minority.any() or minority.all() or found.empty:
        return found
    minority = minority.cpu().numpy()
    table = found.assign(attribute=val.attribute.cpu().numpy(), minority=minority)
    table.attrs |= {
        "attribute_names": list(val.attribute_names),
        "auroc": float(roc_auc_score(minority, -found["posterior"])),
        "balanced_accuracy": float(balanced_accuracy_score(minority, found["found"] != found["y"])),
    }
    return table
