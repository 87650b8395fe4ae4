"""Robust classifier heads on frozen features: HSFM, its rivals, and the workflow that compares them.

Public names load their module when first used, so that importing one module does not load all of them.
"""

from importlib import import_module

__version__ = "0.1.0"

_WHERE = {
    "build_network": "backbone",
    "embed_images": "embed",
    "save_model": "export",
    "Embeddings": "embeddings",
    "HSFMClassifier": "estimator",
    "Head": "head",
    "export_model": "export",
    "predict_folder": "predict",
    "read_embeddings": "embeddings",
    "read_heads": "head",
    "write_embeddings": "embeddings",
    "write_heads": "head",
}

__all__ = sorted(_WHERE)


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'hsfm' has no attribute {name!r}")
    return getattr(import_module(f"hsfm.{_WHERE[name]}"), name)
