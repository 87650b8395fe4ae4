"""Display names of methods, and of rows of tables that are variants of one."""

from hsfm.heads.known_methods import found

_LABELS = {"erm": "ERM", "ddb_cut_paste": "DDB, cut and paste", "hsfm_capped": "HSFM, K_hard capped by an oracle"}


def method_label(method: str) -> str:
    """The name in tables and figures: a method's LABEL; a variant's as the configuration has it."""
    known = found().get(method)
    return known.label if known else _LABELS.get(method, method)
