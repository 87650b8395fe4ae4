"""DDB: a network retrained beside generated images of hard groups (diffusion driven balancing).

`fit` chooses sources, prunes and retrains; the other modules generate images by diffusion or by cut and paste.
"""
