"""Linear heads and what methods share: their file, the hard set, ERM's own head, a network with a head.

Imports what lies below; methods, evaluation, analysis and deploy may import it.
"""
