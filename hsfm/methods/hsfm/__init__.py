"""HSFM: meta-learned edits of support features (arXiv 2603.29313).

`train` is the entry; `outer_loop`, `meta_gradient` and `inner_loop` are the engine, `support` its result as a file.
"""
