"""DDB: a network retrained with generated images of hard groups (diffusion driven balancing).

`sources` chooses what is changed, `prune` what is kept, `fit` retrains; the other modules generate images by diffusion
or by cut and paste.
"""
