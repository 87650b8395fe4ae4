"""Robust classifier heads on frozen features: HSFM, its rivals, and the workflow that compares them.

Public names load their module when first used, so that importing one module does not load all of them.
"""

from importlib import import_module

__version__ = "0.2.0"

_WHERE = {
    "build_network": "models.backbone",
    "embed_images": "features.extract",
    "save_model": "deploy.export",
    "compare": "deploy.compare",
    "Embeddings": "features.embeddings",
    "Head": "heads.head",
    "export_model": "deploy.export",
    "predict_folder": "deploy.predict",
    "read_embeddings": "features.embeddings",
    "read_heads": "heads.head",
    "write_embeddings": "features.embeddings",
    "write_heads": "heads.head",
}


def __getattr__(name: str) -> object:
    if name == "__all__":  # reads the names of methods, without importing them
        methods = import_module("hsfm.heads.known_methods").found().values()
        return sorted([*_WHERE, *(method.estimator for method in methods if not method.images)])
    where = "deploy.estimators" if name.endswith("Classifier") else _WHERE.get(name)
    if where is None:
        raise AttributeError(f"module 'hsfm' has no attribute {name!r}")
    return getattr(import_module(f"hsfm.{where}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__getattr__("__all__")]
