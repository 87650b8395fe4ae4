"""Linear heads: their file, the hard set, the ERM head, and a network with a replaced head.

Imports what lies below; methods, evaluation, analysis and deploy may import it.
"""
