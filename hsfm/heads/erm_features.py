"""ERM's head and the embeddings of its network, read together."""

from pathlib import Path

from hsfm.features.embeddings import Embeddings, read_embeddings
from hsfm.heads.head import SavedHeads, read_heads


def read_erm_features(heads: str | Path, **splits: str | Path) -> tuple[SavedHeads, list[Embeddings]]:
    """The head, and the embeddings of some splits by their files. Raises ValueError naming one of another network."""
    erm = read_heads(heads)
    read = [read_embeddings(path, split=split) for split, path in splits.items()]
    for embeddings, path in zip(read, splits.values(), strict=True):
        erm.check_fits(embeddings, path)
    return erm, read
