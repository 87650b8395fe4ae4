"""Tables, figures and the page: frames and arrays in, files for readers out.

Imports `core`, `data` and `evaluation`, and no torch by itself; only scripts enter.
"""
