"""Nested values of a configuration as YAML and the command line give them, before anything checks them.

The workflow reads its configuration at every start, so nothing is imported here but the standard library.
"""

import copy


def as_meant(values: object) -> object:
    """Values with null for the text of that name, which `--config afr=null` hands over, and the key `on`, which YAML
    1.1 reads as true."""
    if isinstance(values, dict):
        return {"on" if key is True else key: as_meant(value) for key, value in values.items()}
    if isinstance(values, list):
        return [as_meant(value) for value in values]
    return None if values == "null" else values


def merged(base: object, own: object) -> object:
    """`own`, and what only `base` has, all the way down."""
    if not (isinstance(base, dict) and isinstance(own, dict)):
        return copy.deepcopy(own)
    both = {key: merged(base.get(key), own[key]) for key in own}
    return {**copy.deepcopy({key: value for key, value in base.items() if key not in own}), **both}
