"""Dataset layouts, one module each: a folder or a table in, the rows of an image table out."""
