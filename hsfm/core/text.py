"""Short summaries of a stage's main numbers, for its last log line."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def percent(shares: Iterable[float]) -> str:
    """Shares in percent: `92.4`, of several the mean and the sample standard deviation, `92.4 ± 0.2`."""
    values = [100 * float(share) for share in shares]
    if not values or any(map(math.isnan, values)):
        return "unknown"
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.1f}{deviation}"


def kept_epochs(history: "pd.DataFrame") -> str:
    """Of a history, `validation worst group 92.4 ± 0.2 (epochs 38, 40, 22)`; the worst class without known groups."""
    kept = history[history["kept"]]
    if kept.empty:
        return "no epoch kept"
    part = "class" if kept["val_worst_group"].isna().any() else "group"
    numbers = ", ".join(str(epoch) for epoch in kept["epoch"])
    return f"validation worst {part} {percent(kept[f'val_worst_{part}'])} (epoch{'s' * (len(kept) > 1)} {numbers})"


def on_test(scores: "pd.DataFrame") -> str:
    """Of a method's scores: `test worst group 92.4 ± 0.2, average 95.8 ± 0.2`, over seeds."""
    worst, average = worst_and_average(scores)
    return f"test worst group {worst}, average {average}"


def worst_and_average(scores: "pd.DataFrame") -> tuple[str, str]:
    """Of a method's scores on test, over seeds: worst group and average in percent."""
    test = scores[(scores["split"] == "test") & (scores["n"] > 0)]
    by_seed = test.groupby("seed")[["correct", "n"]].sum()
    groups = test[test["group"].notna()]
    large = groups[groups["n"] >= groups["min_group"].fillna(1)] if "min_group" in groups else groups
    worst = percent(large.groupby("seed")["accuracy"].min()) if len(groups) == len(test) else "unknown"
    return worst, percent(by_seed["correct"] / by_seed["n"])


def by_split(rows: Mapping[str, int]) -> str:
    """Images by split: `4,800 images (train 4,000, val 400, test 400)`."""
    each = ", ".join(f"{split} {n:,}" for split, n in rows.items())
    return f"{sum(rows.values()):,} images ({each})"


def few(names: Sequence[object], limit: int = 10) -> str:
    """Names between commas, of more than `limit` the first and their number: `a, b, ... (1,000 in all)`."""
    more = f", ... ({len(names):,} in all)" if len(names) > limit else ""
    return ", ".join(map(str, names[:limit])) + more


def strengths(chosen: Sequence[float]) -> str:
    """Inverse strengths of a penalty, one per seed: `C 0.1, 0.1, 0.03`, and once where they agree."""
    different = dict.fromkeys(chosen)
    return "C " + ", ".join(f"{c:g}" for c in (different if len(different) == 1 else chosen))


def duration(seconds: float | int) -> str:
    """Seconds for readers, in their two largest units: `8.4 s`, `12 s`, `1 min 5 s`, `2 h 3 min`, `4 d 7 h`."""
    if seconds < 0:
        return f"-{duration(-seconds)}"
    if seconds < 9.95:
        return f"{round(seconds, 2):.2g} s"
    left = int(seconds + 0.5)
    for unit, smaller, size, part in (("d", "h", 86400, 3600), ("h", "min", 3600, 60), ("min", "s", 60, 1)):
        if left >= size:
            rest = left % size // part
            return f"{left // size} {unit}" + (f" {rest} {smaller}" if rest else "")
    return f"{left} s"
