"""Groups inferred from features and classes: no group label anywhere, and a validation split that may be biased.

`infer` finds the attribute, `two_clouds` and `guard` test whether to believe it, `groups` brings them together.
"""
