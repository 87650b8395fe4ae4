import pytest

from hsfm.heads.head import Head, SavedHeads, stack


@pytest.fixture
def opposites(splits, erm_head) -> SavedHeads:
    """ERM's head and its negative, which predicts the other of two classes."""
    return SavedHeads(
        head=stack([erm_head, Head(-erm_head.weight, -erm_head.bias)]), method="hsfm", seeds=(3, 5),
        class_names=splits["val"].class_names, checkpoint_sha256="a" * 64, group_labels="selection", chosen_by="a rule",
        remarks=("", "hardly moved"),
    )  # fmt: skip
