"""DaC: a head retrained on images recomposed of causal and other parts (Noohdani et al., CVPR 2024).

`fit` is the method; `heat_maps` and `find_masks` find the parts, and `masks` are their files.
"""
