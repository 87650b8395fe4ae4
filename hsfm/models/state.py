"""Training states in files, by which a killed training resumes."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hsfm.core.files import write_atomically

log = logging.getLogger(__name__)


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write what torch.save takes: tensors, numbers, texts, and containers of these."""
    with write_atomically(path) as temporary:
        torch.save(dict(state), temporary)


def read_state(path: Path) -> dict[str, Any] | None:
    """Read what `write_state` wrote, on the CPU; None where there is no file, or with a warning one not to be read."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        return None
    except Exception as error:  # a broken file fails torch's parser in any way
        log.warning("%s cannot be read (%s); the work begins anew", path, type(error).__name__)
        return None
