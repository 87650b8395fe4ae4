"""DDB: a network retrained with generated images of hard groups (diffusion driven balancing).

`fit` chooses sources, prunes and retrains; the other modules generate images by diffusion or by cut and paste.
"""
