"""Methods that retrain a head: one module each, a folder where a method has parts.

Import `heads` and what lies below, never one another; analysis and deploy may import them.
"""
