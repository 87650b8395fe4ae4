import numpy as np
import pandas as pd
import pytest

from hsfm.analysis.generated_pictures import count_kept, generated_pictures, some_of_each_fate
from hsfm.methods.ddb.generated import NOTHING_FOUND, as_png

FAR = "too little of it lies on the object"


@pytest.fixture
def pruned() -> pd.DataFrame:
    """Of class 1 five sources with two images each, all kept; of class 0 three that were not, for two reasons."""
    rows = [{"y": 1, "source_y": 0, "source_id": f"s{n // 2}", "number": n % 2, "why_not": None} for n in range(10)]
    rows += [{"y": 0, "source_y": 1, "source_id": f"t{n}", "number": 0, "why_not": FAR} for n in range(3)]
    rows += [{"y": 0, "source_y": 1, "source_id": "u0", "number": 0, "why_not": NOTHING_FOUND}]
    frame = pd.DataFrame(rows, dtype=object)
    made = frame["why_not"] != NOTHING_FOUND
    measures = {"attribution": 0.75, "probability": 0.25, "limit": 0.5}
    frame = frame.assign(
        image_id=[f"g{n}" for n in range(14)], kept=frame["why_not"].isna(), **dict.fromkeys(measures, None)
    )
    frame.loc[made, list(measures)] = list(measures.values())
    return frame


def test_some_of_each_fate_one_of_each_source_first(pruned):
    some = some_of_each_fate(pruned)
    assert some["source_id"].tolist() == ["u0", "t0", "t1", "s0", "s0", "s1", "s2", "s3", "s4"]


def test_pictures_and_captions(pruned):
    image, mask = np.full((4, 6, 3), 7, np.uint8), np.eye(4, 6, dtype=bool)
    generated = pd.DataFrame(
        {"image_id": pruned["image_id"], "image": as_png(image), "mask": as_png(mask)}, dtype=object
    ).sample(frac=1, random_state=0)
    generated.loc[generated["image_id"] == "g13", ["image", "mask"]] = None
    asked = []

    def sources(ids: list[str]) -> list[np.ndarray]:
        asked.extend(ids)
        return [np.full((2, 2, 3), number, np.uint8) for number in range(len(ids))]

    found = generated_pictures(pruned, generated, sources, ("cat", "dog"), {"rule": "share", "attribution": 0.5})
    assert asked == some_of_each_fate(pruned)["source_id"].tolist()
    assert [row["source"][0, 0, 0] for row in found] == list(range(9))
    nothing, dropped, kept = found[0], found[1], found[3]
    assert (dropped["name"], kept["name"]) == ("dog to\ncat", "cat to\ndog")
    assert kept["caption"] == "kept\n75 % on the object (> 50)\np = 0.250 (< 0.500)"
    assert dropped["caption"].startswith("dropped\n")
    assert nothing["caption"] == "no object was found in\nthe source"
    assert nothing["mask"] is None
    assert nothing["generated"] is None
    np.testing.assert_array_equal(kept["generated"], image)
    np.testing.assert_array_equal(kept["mask"], mask)


def test_count_kept(pruned):
    assert count_kept(pruned, ("cat", "dog")) == (
        "0 of 4 generated images of cat kept; 10 of 10 generated images of dog kept"
    )
