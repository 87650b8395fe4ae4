"""Packages of the extra [diffusion], which a run may lack."""

import importlib.util
from collections.abc import Callable

from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

MODULES = {  # by package
    "accelerate": "accelerate",
    "captum": "captum",
    "diffusers": "diffusers",
    "open-clip-torch": "open_clip",
    "opencv-python-headless": "cv2",
    "transformers": "transformers",
}
MISSING = [package for package, module in MODULES.items() if importlib.util.find_spec(module) is None]
HOW_TO_INSTALL = f'pip install -e ".[diffusion]" (missing: {", ".join(MISSING)})'


def needs_extra(what: str) -> Callable:
    """An input function without files, which raises WorkflowError where packages are missing."""

    def checked(wildcards: object) -> list[str]:
        if MISSING:
            raise WorkflowError(f"{what} was asked for: {HOW_TO_INSTALL}")
        return []

    return checked


def warn(plan: object, workflow: object) -> None:
    """Say what is left out of a plan for want of the extra; raise WorkflowError where nothing else was asked for."""
    if not plan.methods:
        raise WorkflowError(f"methods: ddb alone was asked for: {HOW_TO_INSTALL}")
    left = {"DDB": "ddb" in plan.config["methods"], "unCLIP": plan.with_unclip}
    for what in (what for what, asked in left.items() if asked and MISSING and workflow.is_main_process):
        logger.warning(f"{what} is left out: {HOW_TO_INSTALL}")
