import hashlib
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from hsfm.data.sources import minibirds
from hsfm.data.sources.minibirds import Settings, draw_masks, pack

HALF = {"val": 0.5, "test": 0.5}
SMALL = {
    "source": "minibirds",
    "sizes": {"train": 40, "val": 20, "test": 20},
    "agreement": {"train": 0.9} | HALF,
    "image_size": 32,
    "hardness": 0.15,
    "seed": 3,
}


@pytest.fixture(scope="module")
def birds():
    return pack(Settings(**SMALL))


def test_counts_follow_sizes_and_agreement(birds):
    counts = birds.rows.groupby(["split", "y", "attribute"]).size()
    assert counts["train"].tolist() == [18, 2, 2, 18]
    assert counts["val"].tolist() == counts["test"].tolist() == [5, 5, 5, 5]
    assert birds.pixels.shape == (80, 32, 32, 3)
    assert birds.pixels.dtype == np.uint8
    assert birds.rows["image_id"].is_unique
    assert birds.rows["index"].tolist() == list(range(80))
    assert 5 < np.count_nonzero(np.diff(birds.rows["y"][:40])) < 39, "shuffled"


def test_the_published_agreement_gives_the_published_counts():
    many = Settings(**{**SMALL, "sizes": {"train": 4000, "val": 4, "test": 4}, "agreement": {"train": 0.95} | HALF})
    assert minibirds._rows_of("train", many).groupby(["y", "attribute"]).size().tolist() == [1900, 100, 100, 1900]


def test_one_seed_gives_the_same_bytes_in_another_process(birds):
    program = (
        "import hashlib; from hsfm.data.sources.minibirds import Settings, pack; "
        f"print(hashlib.sha256(pack(Settings(**{SMALL!r})).pixels.tobytes()).hexdigest())"
    )
    out = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.strip()
    assert out == hashlib.sha256(birds.pixels.tobytes()).hexdigest()


def test_an_image_does_not_depend_on_how_many_others_there_are(birds):
    more = pack(Settings(**{**SMALL, "sizes": {"train": 42, "val": 20, "test": 20}}))
    val, val_more = (b.rows[b.rows["split"] == "val"] for b in (birds, more))
    assert np.array_equal(birds.pixels[val["index"]], more.pixels[val_more["index"]])


def test_the_scene_shows_the_attribute(birds):
    blueness = birds.pixels[:, :, 0, 2].astype(float) - birds.pixels[:, :, 0, 1]  # left edge, blue against green
    water = birds.rows["attribute"].to_numpy() == 1
    assert blueness[water].mean() > 10 + blueness[~water].mean()


def test_masks_are_where_the_birds_are(birds, monkeypatch):
    """Against the same images drawn without birds: they differ under the mask, and nowhere beyond its edge."""
    image_id, masks = draw_masks("train", Settings(**SMALL))
    rows = birds.rows[birds.rows["split"] == "train"]
    assert image_id == rows["image_id"].to_list()
    monkeypatch.setattr(minibirds, "_bird", lambda *arguments: [])
    changed = (birds.pixels != pack(Settings(**SMALL)).pixels).any(-1)[rows["index"]]
    assert not (masks & ~changed).any()
    assert (changed & ~masks).sum() < 0.35 * masks.sum(), "pixels that a bird covers by less than half"
    assert 0.05 < masks.mean() < 0.25


def test_hardness_hides_the_class():
    """With hardness 1 a bird's shape is drawn without looking at its class."""

    def outlines(y: int, hardness: float) -> np.ndarray:
        return np.concatenate([part for part, _ in minibirds._bird(np.random.default_rng(0), y, hardness)])

    assert np.array_equal(outlines(0, 1.0), outlines(1, 1.0))
    assert not np.allclose(outlines(0, 0.0), outlines(1, 0.0))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"hardness": 1.5}, "hardness"),
        ({"sizes": {"train": 41, "val": 20, "test": 20}}, "sizes.train"),
        ({"sizes": {"train": 40, "val": 2, "test": 20}}, "sizes.val"),
        ({"agreement": {"train": 1.2, "val": 0.5, "test": 0.5}}, "agreement.train"),
    ],
)
def test_settings_out_of_bounds_are_refused(change, place):
    with pytest.raises(ValidationError, match=place):
        Settings(**{**SMALL, **change})
