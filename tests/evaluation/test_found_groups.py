from dataclasses import replace

import pandas as pd
import pyarrow as pa
import pytest
import torch

from hsfm.core.files import read_parquet, write_frame
from hsfm.evaluation.found_groups import compare_found
from tests.conftest import planted


@pytest.fixture
def given():
    train, val = planted("train", [90, 10, 10, 90], seed=0), planted("val", [30, 10, 10, 30], seed=1)
    y, attribute = val.y.numpy(), val.attribute.numpy()
    found = pd.DataFrame({"y": y, "posterior": (attribute == y).astype(float), "found": attribute})
    return found, train, val


def test_right_groups_are_right_and_opposite_ones_wrong(given):
    found, train, val = given
    names = {"attribute_names": list(val.attribute_names)}
    assert compare_found(found, train, val).attrs == {**names, "auroc": 1.0, "balanced_accuracy": 1.0}
    opposite = found.assign(posterior=1 - found["posterior"], found=1 - found["found"])
    assert compare_found(opposite, train, val).attrs == {**names, "auroc": 0.0, "balanced_accuracy": 0.0}
    one = compare_found(found.assign(found=found["y"], posterior=0.5), train, val)
    assert one.attrs == {**names, "auroc": 0.5, "balanced_accuracy": 0.5}
    assert one["minority"].sum() == 20


def test_numbers_are_in_the_file(given, tmp_path):
    table = compare_found(*given)
    write_frame(tmp_path / "found.parquet", table, table.attrs)
    assert read_parquet(tmp_path / "found.parquet", pa.schema({"y": "int64"}))[1]["auroc"] == 1.0


def test_unknown_attributes_and_no_minority_add_nothing(given):
    found, train, val = given
    assert compare_found(found, train, val.without_attributes()) is found
    majority = val.take((val.y == val.attribute).nonzero()[:, 0])
    assert compare_found(found[found["y"] == found["found"]], train, majority).attrs == {}
    assert compare_found(found, replace(train, attribute=torch.full_like(train.attribute, -1)), val) is found
