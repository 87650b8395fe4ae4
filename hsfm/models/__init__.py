"""Networks: backbones, external weights, ERM training on one or several devices.

Imports `core` and `data`; from `features` on, everything may import it.
"""
