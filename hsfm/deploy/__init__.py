"""Use of results elsewhere: estimators, export of a network with a head, prediction on folders.

Imports everything; nothing imports it.
"""
