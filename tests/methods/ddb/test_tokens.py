import json
from types import SimpleNamespace

import pytest
import torch

from hsfm.core.files import write_safetensors
from hsfm.methods.ddb.tokens import add_tokens, token_of


def test_a_word_is_the_class_name_where_that_says_enough():
    names = ["Water Bird", "land-bird", "!?", "a b", "a-b"]
    assert [token_of(label, names) for label in range(5)] == [
        "<water-bird>", "<land-bird>", "<-class2>", "<a-b-class3>", "<a-b-class4>"
    ]  # fmt: skip


def test_a_pipeline_learns_words_of_its_own_width(tmp_path):
    known, table = {}, torch.nn.Embedding(3, 4)
    pipeline = SimpleNamespace(
        text_encoder=SimpleNamespace(get_input_embeddings=lambda: table),
        load_textual_inversion=lambda words, token: known.update(words),
    )
    files = [tmp_path / f"{name}.safetensors" for name in "xy"]
    for name, path in zip("xy", files, strict=True):
        metadata = {"token": f"<{name}>", "model": json.dumps({"name": "base"})}
        write_safetensors(path, {"embedding": torch.full((4,), float(ord(name)))}, metadata)
    assert add_tokens(pipeline, files) == (["<x>", "<y>"], {"name": "base"})
    assert {word: float(row[0]) for word, row in known.items()} == {"<x>": 120.0, "<y>": 121.0}
    write_safetensors(files[1], {"embedding": torch.zeros(5)}, metadata)
    with pytest.raises(ValueError, match=r"y.safetensors: has 5 numbers, .* has 4; it was learned on base"):
        add_tokens(pipeline, files)
