"""Learned words, one per class: their names, and how a pipeline comes to know them from their files."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hsfm.core.files import read_safetensors


def token_of(label: int, class_names: Sequence[str]) -> str:
    """A word for a class, after its name: <water-bird>; with its number where that says too little."""
    plain = [re.sub("[^a-z0-9]+", "-", name.lower()).strip("-") for name in class_names]
    return f"<{plain[label]}>" if plain[label] and plain.count(plain[label]) == 1 else f"<{plain[label]}-class{label}>"


def add_tokens(pipeline: Any, files: Sequence[str | Path]) -> tuple[list[str], dict[str, str]]:
    """Teach a pipeline the learned words of some files; these, and the model they were learned on.

    Raises ValueError where the pipeline's text encoder is of another width.
    """
    names, width = [], pipeline.text_encoder.get_input_embeddings().weight.shape[1]
    for path in files:
        tensors, metadata = read_safetensors(path)
        embedding, token, model = tensors["embedding"], metadata["token"], json.loads(metadata["model"])
        if embedding.shape != (width,):
            raise ValueError(
                f"{path}: has {len(embedding)} numbers, but the inpainting model's text encoder has {width}; it was "
                f"learned on {model['name']}, which has to share its text encoder"
            )
        pipeline.load_textual_inversion({token: embedding}, token=token)
        names.append(token)
    return names, model
