"""Embeddings: their type and file, extraction by a network, import from elsewhere, standardization.

Imports `core`, `data` and `models`; from `heads` on, everything may import it.
"""
