import numpy as np
import pandas as pd
import torch

from hsfm.analysis.decoded_edits import as_table, decoded_pictures
from hsfm.data.table import ImageTable

NAMES = ImageTable(pd.DataFrame(), "toy", ("bird", "fish"), ("land", "water"))


def test_what_clip_takes_the_pictures_for():
    edits = pd.DataFrame(
        {"seed": 0, "image_id": ["i0", "i1"], "y": [0, 1], "attribute": pd.array([1, None], "Int32"), "length": 2.0}
    )
    pictures = {
        when: [np.full((4, 5, 3), shade + row, np.uint8) for row in range(2)]
        for when, shade in (("before", 10), ("after", 20))
    }
    probabilities = {"before": torch.tensor([[0.2, 0.8], [0.6, 0.4]]), "after": torch.tensor([[0.9, 0.1], [0.7, 0.3]])}
    table = as_table(edits, pictures, probabilities, {"dataset": "toy"})
    assert table["moved"].to_pylist() == [True, False]
    originals = [np.full((9, 9, 3), row, np.uint8) for row in range(2)]
    first, second = decoded_pictures(table, NAMES, lambda ids: [originals[int(one[1:])] for one in ids])
    assert (first["name"], second["name"]) == ("bird,\nwater", "fish,\nunknown")
    assert (first["before"][1], first["after"][1], first["moved"]) == ("water, 80 %", "land, 90 %", True)
    assert (second["before"][1], second["after"][1], second["moved"]) == ("land, 60 %", "land, 70 %", False)
    for number, row in enumerate((first, second)):
        np.testing.assert_array_equal(row["original"], originals[number])
        for when in ("before", "after"):
            np.testing.assert_array_equal(row[when][0], pictures[when][number])
