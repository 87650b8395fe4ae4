"""Foundations of all packages: files, devices, jobs, metrics, bootstrap, text.

Imports nothing else of hsfm; every other package may import it.
"""
