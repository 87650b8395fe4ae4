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
    nearest,
    read_edits,
    spurious_direction,
    within_group_directions,
    write_edits,
)
from tests.analysis.small import support_of
from tests.conftest import planted

D = 12


def random_edits(n: int) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(0))


def measured(train, val, edits, **settings):
    """Rows and metadata of the first rows of train under these edits."""
    return measure(support_of(train, list(range(len(edits))), edits), train, val, settings=EditSettings(**settings))


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
    found, _ = measured(train, val, along + 0.2 * random_edits(200))
    random, _ = measured(train, val, random_edits(200))
    spread = D**-0.5
    assert (found["random_spread"] == spread).all()
    assert (found["cos_away"] > 3 * spread).all()
    assert abs(random["cos_spurious"].mean()) < 3 * spread / 200**0.5
    assert random["cos_spurious"].std() == pytest.approx(spread, rel=0.2)
    assert found["attribute_flips"].mean() > 0.9 > 0.2 > random["attribute_flips"].mean()
    assert found["probe_before"].mean() > 0.9 > 0.1 > found["probe_after"].mean()
    assert found["own_before"].mean() > 0.9 > 0.2 > found["own_after"].mean()


def test_without_a_planted_direction_nothing_stands_out():
    """The attribute changes no feature: edits along the former direction meet none."""
    plain = []
    for split, seed in (("train", 0), ("val", 1)):
        one = planted(split, [200, 200, 200, 200], seed=seed)
        noise = torch.randn(len(one.y), generator=torch.Generator().manual_seed(seed + 5))
        plain.append(replace(one, features=torch.cat([noise[:, None], one.features[:, 1:]], 1)))
    along = torch.zeros(100, D)
    along[:, 0] = 4.0
    rows, metadata = measured(*plain, along)
    assert metadata["probe_accuracy"] < 0.65
    assert (rows["probe_after"] - rows["probe_before"]).abs().mean() < 0.2
    assert rows["own_after"].mean() == pytest.approx(0.5, abs=0.15)


def test_an_edit_of_no_length_is_a_row_of_zeros_and_no_nan(splits):
    edits = random_edits(6)
    edits[2] = 0
    found, _ = measured(splits["train"], splits["val"], edits)
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
    chosen = support_of(train, list(range(20)), 2 * random_edits(20))
    found, _ = measure(chosen, train, splits["val"], settings=EditSettings(neighbors=3))
    first = {}
    for when, features in (("before", chosen.before), ("after", chosen.after)):
        distance = torch.cdist(features.double(), train.features.double())
        distance.fill_diagonal_(torch.inf)
        rows = distance.argsort(1)[:, :3]
        assert found[f"nearest_{when}"].tolist() == [[train.image_id[i] for i in row] for row in rows.tolist()]
        own = (train.attribute[rows] == train.attribute[:20, None]).double().mean(1)
        np.testing.assert_allclose(found[f"own_{when}"], own)
        first[when] = rows[:, 0]
    for name, labels in (("attribute_flips", train.attribute), ("class_flips", train.y)):
        assert found[name].tolist() == (labels[first["before"]] != labels[first["after"]]).tolist()


def test_small_distances_far_from_the_origin_are_told_apart_and_copies_of_a_row_are_not_it():
    generator = torch.Generator().manual_seed(0)
    rows = 100 + 0.01 * torch.randn(40, 6, generator=generator)
    expected = torch.cdist(rows.double(), rows.double(), compute_mode="donot_use_mm_for_euclid_dist").argsort(1)
    assert torch.equal(nearest(rows, rows, 5, own=torch.arange(40)), expected[:, 1:6])
    assert torch.equal(nearest(rows[:4], rows[:4], 5, own=torch.arange(4)).sort(1)[0][0], torch.tensor([1, 2, 3])), (
        "all there are"
    )
    copies = torch.cat([torch.zeros(5, 6), rows])
    found = nearest(copies[:5], copies, 3, own=torch.arange(5))
    assert (found < 5).all()
    assert (found != torch.arange(5)[:, None]).all()


def test_lengths_and_cosines_by_hand(splits):
    found, _ = measured(splits["train"], splits["val"], random_edits(5))
    before = splits["train"].features[:5]
    edits = (before + random_edits(5) - before).double().numpy()
    _, v = spurious_direction(splits["train"], splits["val"])
    length = np.linalg.norm(edits, axis=1)
    np.testing.assert_allclose(found["length"], length, rtol=1e-5)
    np.testing.assert_allclose(found["relative_length"], length / before.norm(dim=1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found["cos_spurious"], edits @ v.double().numpy() / length, atol=1e-5)
    sign = np.where(splits["train"].attribute[:5] == 0, 1, -1)
    np.testing.assert_allclose(found["cos_away"], sign * found["cos_spurious"])
    assert cosines(torch.zeros(2, 3), torch.eye(3)).tolist() == [[0, 0, 0]] * 2


def test_unknown_attributes_leave_their_measures_empty(splits):
    unknown = {name: replace(part, attribute=torch.full_like(part.attribute, -1)) for name, part in splits.items()}
    rows, metadata = measured(unknown["train"], unknown["val"], random_edits(4))
    empty = ["attribute", "cos_spurious", "cos_away", "attribute_flips", "own_before", "probe_after"]
    assert rows[empty].isna().all(axis=None)
    assert rows[["cos_class", "pairs_spread", "class_flips", "length"]].notna().all(axis=None)
    assert not metadata["spurious"]


def test_classes_that_no_attribute_shows_together_are_compared_as_they_are(splits):
    """Validation in which the attribute is the class: directions within attributes come from nowhere."""
    same = splits["val"].take((splits["val"].attribute == splits["val"].y).nonzero()[:, 0])
    rows, metadata = measured(splits["train"], same, random_edits(4))
    assert metadata["directions_of"] == "train"
    assert rows["cos_class"].notna().all()
    assert isinstance(metadata["directions_cosine"], float)


def test_an_attribute_of_a_single_image_has_no_probe(splits):
    val = splits["val"]
    one = torch.cat([(val.attribute == 0).nonzero()[:, 0], (val.attribute == 1).nonzero()[:1, 0]])
    rows, metadata = measured(splits["train"], val.take(one), random_edits(4))
    assert metadata["probe_accuracy"] is None
    assert rows["probe_after"].isna().all()
    assert rows["cos_spurious"].notna().all()


def test_an_attribute_that_the_direction_does_not_know_has_no_away(splits):
    train = splits["train"]
    third = replace(train, attribute=torch.where(torch.arange(len(train.y)) < 2, 2, train.attribute))
    found, _ = measured(third, splits["val"], random_edits(4))
    assert found["cos_away"].isna().tolist() == [True, True, False, False]


def test_the_longest_edits_of_each_group():
    rows = pd.DataFrame({"y": [0, 0, 0, 1, 1], "attribute": pd.array([0, 0, 1, None, None], "Int32"),
                         "length": [1.0, 3.0, 2.0, 5.0, 6.0]})  # fmt: skip
    assert largest_of_each_group(rows, 1).index.tolist() == [1, 2, 4]
    assert largest_of_each_group(rows, 5).index.tolist() == [1, 0, 2, 4, 3]


def test_the_file_comes_back(splits, tmp_path):
    found, described = measured(splits["train"], splits["val"], random_edits(4))
    path = tmp_path / "edits.parquet"
    write_edits(path, found.assign(dataset="planted", run=3), described)
    rows, metadata = read_edits(path)
    assert metadata == described | {"class_names": list(described["class_names"])}
    assert rows["run"].tolist() == [3] * 4
    assert rows["class_name"].tolist() == [f"class {y}" for y in splits["train"].y[:4]]
    for name in ("cos_spurious", "probe_after", "attribute", "attribute_flips"):
        assert rows[name].tolist() == found[name].tolist()
    assert [list(one) for one in rows["nearest_after"]] == found["nearest_after"].tolist()
    pd.DataFrame({"image_id": ["a"]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"edits.parquet: no column 'dataset'"):
        read_edits(path)
