"""Dataset layouts, one module each: a folder or a table in, the rows of an image table out.

Imports the rest of `data`; entered by the scripts that list or pack images.
"""
