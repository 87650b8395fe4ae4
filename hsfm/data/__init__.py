"""Images and their labels: the image table, decoding, stored pixels, transforms, downloads.

Imports `core`; from `models` on, everything may import it. One module per dataset layout in `sources`.
"""
