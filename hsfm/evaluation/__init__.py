"""Evaluation of heads: scores by group, predictions per image, measures and comparisons.

Imports `core` to `heads`, no method; analysis, report and deploy may import it.
"""
