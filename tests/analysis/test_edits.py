from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from hsfm.analysis.edits import (
    EditSettings,
    class_direction,
    contrast,
    cosines,
    largest_of_each_group,
    measure,
    read_edits,
    spurious_direction,
    within_group_directions,
    write_edits,
)
from hsfm.features.embeddings import Embeddings
from hsfm.methods.hsfm.support import Support
from tests.conftest import planted

D = 12
DEFAULT = EditSettings()


def support(train: Embeddings, edits: torch.Tensor, seeds: int = 1) -> Support:
    """The first rows of train, with these edits; the same for every seed."""
    n = len(edits)
    before = train.features[:n]
    return Support(
        seed=tuple(seed for seed in range(seeds) for _ in range(n)),
        image_id=train.image_id[:n] * seeds,
        y=train.y[:n].repeat(seeds),
        before=before.repeat(seeds, 1),
        after=(before + edits).repeat(seeds, 1),
        checkpoint_sha256=train.checkpoint_sha256,
    )


def random_edits(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


# Directions -----------------------------------------------------------------------------------------------------------


def test_the_contrast_of_two_labels_is_the_mean_difference_of_means_within_classes():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(400, 5))
    label, within = (generator.integers(0, n, 400) for n in (2, 3))
    features[:, 1] += 3 * label
    features[:, 2] += 10 * within
    expected = np.zeros(5)
    for value in range(3):
        own = within == value
        expected += features[own & (label == 1)].mean(0) - features[own & (label == 0)].mean(0)
    found = contrast(torch.tensor(features), torch.tensor(label), torch.tensor(within))
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=1e-10)
    assert abs(found[1]) > 0.99


def test_the_planted_attribute_is_found_whatever_the_classes_shares_are(splits):
    """In train the attribute all but tells the class: only within classes does it stand alone."""
    part, direction = spurious_direction(splits["train"], splits["val"])
    assert part.split == "val"
    assert direction[0] > 0.99
    train = splits["train"]
    assert contrast(train.features, train.attribute, train.y)[0] > 0.97
    found = class_direction(splits["val"])
    assert found[1] < -0.6
    assert found[2] > 0.6


def test_several_labels_give_the_direction_in_which_their_means_differ_most():
    features = torch.randn(900, 4, generator=torch.Generator().manual_seed(0))
    label, within = torch.arange(900) % 3, torch.arange(900) // 3 % 2
    features[:, 3] += 5.0 * label
    assert contrast(features, label, within)[3] > 0.99
    assert contrast(features, 2 - label, within)[3] < -0.99, "it rises with the label"


def test_no_contrast_where_there_is_nothing_to_compare():
    features, zeros = torch.randn(6, 3), torch.zeros(6, dtype=torch.long)
    assert contrast(features, zeros, zeros) is None
    assert contrast(features, torch.arange(6), torch.arange(6)) is None
    assert contrast(features, torch.full((6,), -1), zeros) is None
    assert contrast(torch.ones(6, 3), torch.arange(6) % 2, zeros) is None


def test_directions_within_groups_hold_nothing_of_what_tells_groups_apart():
    group = torch.arange(200) % 4
    features = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    features[:, :4] = 100 * torch.nn.functional.one_hot(group, 4)
    embeddings = replace(planted("val", [50] * 4, seed=0), features=features, y=group // 2, attribute=group % 2)
    found = within_group_directions(embeddings, torch.Generator().manual_seed(0), 50)
    assert found.shape == (50, 6)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(50))
    assert (found[:, :4] == 0).all()


# Measurements ---------------------------------------------------------------------------------------------------------


def test_edits_along_the_planted_direction_are_found_and_random_ones_are_not(splits):
    train, val = splits["train"], splits["val"]
    along = torch.zeros(200, D)
    along[:, 0] = torch.where(train.attribute[:200] == 0, 6.0, -6.0)
    measured = measure(support(train, along + 0.2 * random_edits(200)), train, val, settings=DEFAULT)
    assert measured.metadata["contrast_ratio"] > 5, "the direction is no noise"
    found = measured.rows
    random = measure(support(train, random_edits(200)), train, val, settings=DEFAULT).rows
    spread = D**-0.5
    assert (found["random_spread"] == spread).all()
    assert (found["cos_away"] > 3 * spread).all()
    assert abs(random["cos_spurious"].mean()) < 3 * spread / 200**0.5
    assert random["cos_spurious"].std() == pytest.approx(spread, rel=0.2)
    assert found["attribute_flips"].mean() > 0.9 > 0.2 > random["attribute_flips"].mean()
    assert found["probe_before"].mean() > 0.9 > 0.1 > found["probe_after"].mean()
    assert found["own_before"].mean() > 0.9 > 0.2 > found["own_after"].mean()


def test_without_a_planted_direction_nothing_stands_out():
    """The attribute changes no feature: its contrast is noise, and edits along the former direction do not meet it."""
    plain = {}
    for split, seed in (("train", 0), ("val", 1)):
        one = planted(split, [200, 200, 200, 200], seed=seed)
        noise = torch.randn(len(one.y), generator=torch.Generator().manual_seed(seed + 5))
        plain[split] = replace(one, features=torch.cat([noise[:, None], one.features[:, 1:]], 1))
    along = torch.zeros(100, D)
    along[:, 0] = 4.0
    found = measure(support(plain["train"], along), *plain.values(), settings=DEFAULT)
    assert found.metadata["contrast_ratio"] < 1.5, "the direction is what shuffled attributes give"
    assert found.metadata["probe_accuracy"] < 0.65
    assert (found.rows["probe_after"] - found.rows["probe_before"]).abs().mean() < 0.2
    assert found.rows["own_after"].mean() == pytest.approx(0.5, abs=0.15)


def test_an_edit_of_no_length_is_a_row_of_zeros_and_no_nan(splits):
    edits = random_edits(6)
    edits[2] = 0
    found = measure(support(splits["train"], edits), splits["train"], splits["val"], settings=DEFAULT).rows
    row = found.iloc[2]
    lengths = ["length", "relative_length", "cos_spurious", "cos_away", "cos_class", "pairs_spread"]
    assert (row[lengths] == 0).all()
    assert not found.isna().any(axis=None)
    assert list(row["nearest_after"]) == list(row["nearest_before"]), "the row itself is left out both times"
    assert not row["attribute_flips"]
    assert not row["class_flips"]
    assert row["own_before"] == row["own_after"]
    assert row["probe_before"] == row["probe_after"]
    assert (found["length"].drop(2) > 0).all()


def test_neighbors_are_the_nearest_training_images(splits):
    train = splits["train"]
    chosen = support(train, 2 * random_edits(20), seeds=2)
    found = measure(chosen, train, splits["val"], settings=EditSettings(neighbors=3)).rows
    for when, features in (("before", chosen.before), ("after", chosen.after)):
        distance = torch.cdist(features.double(), train.features.double())
        distance[torch.arange(40), torch.arange(20).repeat(2)] = torch.inf
        nearest = distance.argsort(1)[:, :3]
        assert found[f"nearest_{when}"].tolist() == [[train.image_id[i] for i in row] for row in nearest.tolist()]
        assert found[f"attribute_{when}"].tolist() == train.attribute[nearest[:, 0]].tolist()
        own = (train.attribute[nearest] == train.attribute[:20].repeat(2)[:, None]).double().mean(1)
        np.testing.assert_allclose(found[f"own_{when}"], own)
    flips = found["attribute_before"] != found["attribute_after"]
    assert found["attribute_flips"].tolist() == flips.tolist()
    assert found["class_flips"].tolist() == (found["y_before"] != found["y_after"]).tolist()
    assert found["seed"].tolist() == [0] * 20 + [1] * 20


def test_lengths_and_cosines_by_hand(splits):
    chosen = support(splits["train"], random_edits(5))
    found = measure(chosen, splits["train"], splits["val"], settings=DEFAULT).rows
    edits = (chosen.after - chosen.before).double().numpy()
    _, v = spurious_direction(splits["train"], splits["val"])
    length = np.linalg.norm(edits, axis=1)
    np.testing.assert_allclose(found["length"], length, rtol=1e-5)
    np.testing.assert_allclose(found["relative_length"], length / chosen.before.norm(dim=1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found["cos_spurious"], edits @ v.double().numpy() / length, atol=1e-5)
    sign = np.where(splits["train"].attribute[:5] == 0, 1, -1)
    np.testing.assert_allclose(found["cos_away"], sign * found["cos_spurious"])
    assert cosines(torch.zeros(2, 3), torch.eye(3)).tolist() == [[0, 0, 0]] * 2


def test_unknown_attributes_leave_their_measures_empty(splits):
    unknown = {name: replace(part, attribute=torch.full_like(part.attribute, -1)) for name, part in splits.items()}
    found = measure(support(unknown["train"], random_edits(4)), unknown["train"], unknown["val"], settings=DEFAULT)
    empty = [
        "attribute",
        "cos_spurious",
        "cos_away",
        "attribute_before",
        "attribute_flips",
        "own_before",
        "probe_after",
    ]
    assert found.rows[empty].isna().all(axis=None)
    assert found.rows[["cos_class", "pairs_spread", "class_flips", "length"]].notna().all(axis=None)
    assert not found.metadata["spurious"]


def test_embeddings_of_another_checkpoint_are_refused(splits):
    other = replace(splits["val"], checkpoint_sha256="b" * 64)
    with pytest.raises(ValueError, match=r"support: is of checkpoint a{64}, but the val embeddings are of b{64}"):
        measure(support(splits["train"], random_edits(3)), splits["train"], other, settings=DEFAULT)


def test_classes_that_no_attribute_shows_together_are_compared_as_they_are(splits):
    """Validation in which the attribute is the class: directions within attributes come from nowhere."""
    same = splits["val"].take((splits["val"].attribute == splits["val"].y).nonzero()[:, 0])
    found = measure(support(splits["train"], random_edits(4)), splits["train"], same, settings=DEFAULT)
    assert found.metadata["directions_of"] == "train"
    assert found.rows["cos_class"].notna().all()
    assert isinstance(found.metadata["directions_cosine"], float)


def test_an_attribute_of_a_single_image_has_no_probe(splits):
    val = splits["val"]
    one = torch.cat([(val.attribute == 0).nonzero()[:, 0], (val.attribute == 1).nonzero()[:1, 0]])
    found = measure(support(splits["train"], random_edits(4)), splits["train"], val.take(one), settings=DEFAULT)
    assert found.metadata["probe_accuracy"] is None
    assert found.rows["probe_after"].isna().all()
    assert found.rows["cos_spurious"].notna().all()


def test_an_attribute_that_the_direction_does_not_know_has_no_away(splits):
    train = splits["train"]
    third = replace(train, attribute=torch.where(torch.arange(len(train.y)) < 2, 2, train.attribute))
    found = measure(support(third, random_edits(4)), third, splits["val"], settings=DEFAULT).rows
    assert found["cos_away"].isna().tolist() == [True, True, False, False]


def test_the_longest_edits_of_each_group():
    rows = pd.DataFrame({"y": [0, 0, 0, 1, 1], "attribute": pd.array([0, 0, 1, None, None], "Int32"),
                         "length": [1.0, 3.0, 2.0, 5.0, 6.0]})  # fmt: skip
    assert largest_of_each_group(rows, 1).index.tolist() == [1, 2, 4]
    assert largest_of_each_group(rows, 5).index.tolist() == [1, 0, 2, 4, 3]


def test_the_file_comes_back(splits, tmp_path):
    found = measure(support(splits["train"], random_edits(4)), splits["train"], splits["val"], settings=DEFAULT)
    path = tmp_path / "edits.parquet"
    write_edits(path, found, dataset="planted", run=3, checkpoint_sha256="a" * 64)
    rows, metadata = read_edits(path)
    assert metadata["directions_of"] == "val"
    assert rows["run"].tolist() == [3] * 4
    assert rows["class_name"].tolist() == [f"class {y}" for y in splits["train"].y[:4]]
    for name in ("cos_spurious", "probe_after", "attribute", "y_after"):
        assert rows[name].tolist() == found.rows[name].tolist()
    assert [list(one) for one in rows["nearest_after"]] == found.rows["nearest_after"].tolist()
    pd.DataFrame({"image_id": ["a"]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"edits.parquet: no column 'dataset'"):
        read_edits(path)
