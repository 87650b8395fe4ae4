"""The page on numbers says for every method what its choice was judged on."""

from hsfm.heads import known_methods
from tests.repository import ROOT


def test_every_method_is_in_the_table_of_selection():
    page = (ROOT / "docs/explanation/numbers.md").read_text()
    table = page.split("## Selection")[1].split("##")[0]
    rows = [line.split("|") for line in table.splitlines() if line.startswith("| `")]
    named = {name.strip(" `").partition(":")[0] for row in rows for name in row[1].split(",")}
    assert set(known_methods.found()) <= named
    assert all(len(row) == 6 and row[4].strip() for row in rows)
