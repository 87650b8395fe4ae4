"""DaC: a head retrained on images recomposed of causal and other parts (Noohdani et al., CVPR 2024).

`fit` is the method; `heat_maps` and `masks` find the parts.
"""
