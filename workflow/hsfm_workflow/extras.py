"""Packages of the extra [diffusion], which a run may lack."""

import importlib.util
from collections.abc import Callable, Sequence

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
MISSING_FOR_DDB = [package for package in MISSING if package != "open-clip-torch"]
MISSING_FOR_UNCLIP = [package for package in MISSING if package not in ("captum", "opencv-python-headless")]
HOW_TO_INSTALL = f'pip install -e ".[diffusion]" (missing: {", ".join(MISSING)})'


def needs_extra(what: str, missing: Sequence[str]) -> Callable:
    """An input function without files, which raises WorkflowError where packages are missing."""

    def checked(wildcards: object) -> list[str]:
        if missing:
            raise WorkflowError(f"{what} was asked for: {HOW_TO_INSTALL}")
        return []

    return checked


def warn(plan: object, workflow: object) -> None:
    """Say what is left out of a plan for want of the extra; raise WorkflowError where nothing else was asked for."""
    if not plan.methods:
        raise WorkflowError(f"methods: ddb alone was asked for: {HOW_TO_INSTALL}")
    if workflow.is_main_process and MISSING_FOR_DDB and "ddb" in plan.config["methods"]:
        logger.warning(f"DDB is left out: {HOW_TO_INSTALL}")
    if workflow.is_main_process and MISSING_FOR_UNCLIP and plan.with_unclip:
        logger.warning(f"Pictures by unCLIP are left out: {HOW_TO_INSTALL}")
