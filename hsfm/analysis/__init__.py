"""Studies beyond the main table: support edits, sweep, ablations, bias of validation.

Imports methods, evaluation and what lies below; only scripts enter.
"""
