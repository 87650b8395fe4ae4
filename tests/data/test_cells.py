import pandas as pd

from hsfm.data.cells import combine


def test_cells_are_the_combinations_that_occur_in_the_order_of_their_values():
    place = pd.Series([1, 0, 1, pd.NA, 0], dtype="Int32"), ("land", "water")
    size = pd.Series([2, 0, 0, 1, 0], dtype="Int32"), ("s", "m", "l")
    cell, names, values = combine({"place": place, "size": size})
    assert names == ("place land, size s", "place water, size s", "place water, size l")
    assert cell.tolist() == [2, 0, 1, pd.NA, 0]
    assert values == {"place": ("land", "water", "water"), "size": ("s", "s", "l")}
