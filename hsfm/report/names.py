"""Display names of methods."""

_LABELS = {"dac": "DaC", "ddb_cut_paste": "DDB, cut and paste", "hsfm_capped": "HSFM, K_hard capped"}


def method_label(method: str) -> str:
    """The name of a method in tables and figures."""
    return _LABELS.get(method, method.upper())
