"""HSFM by its defaults on features of photographs, beside LLR and its control Tune: test accuracies and held-out ones.

    python -m benchmarks.real_heads FOLDER/dominoes_frozen FOLDER/style_tuned [--seeds 0 1 2] [--hsfm tune=null]
    python -m benchmarks.real_heads FOLDER/style_tuned --cuts 10
    python -m benchmarks.real_heads FOLDER/lesions_frozen --halves 3

Reads {NAME}_train.npz, _val.npz and _test.npz with x, y, attribute. ERM's head is a logistic regression on train.
Percent on test, worst group / average, mean over seeds. Differences in the worst group have 95 % intervals over test
images, drawn within their groups, and seeds, the same for both methods. `held out` is what the method says of its own
choice without test, with its 95 % interval, `gap` the distance to test, and `chosen` the same number on the rows that
chose. The last lines count how often HSFM on test, which is a sample too, lies in that interval. With --cuts validation
and test are pooled and cut anew, as many rows of each group as before, so that what is due to one cut shows. With
--halves one half of validation stands for all of it and the other for test, which is not read: by this defaults are
chosen.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
import yaml
from jaxtyping import Float

from hsfm.core.bootstrap import RESAMPLES, difference_interval, resample
from hsfm.core.progress import quiet
from hsfm.features.embeddings import Embeddings, joined
from hsfm.features.imported import import_embeddings
from hsfm.heads.erm_head import fit_head
from hsfm.heads.fit import Fit
from hsfm.heads.hard_set import HardSetSettings, build
from hsfm.heads.scorer import Scorer
from hsfm.heads.supervision import fit_supervised
from hsfm.heads.tuning import _halves
from hsfm.methods import hsfm, llr, tune

METHODS = {"LLR": llr, "Tune": tune, "HSFM": hsfm}


def fitted(
    splits: dict[str, Embeddings], seeds: Sequence[int], changes: dict[str, dict], methods: Sequence[str]
) -> tuple[dict[str, Fit], dict[str, float]]:
    """Fits and their seconds by label."""
    train, val = splits["train"], splits["val"]
    erm, fits, seconds = fit_head(train)[0], {}, {}
    for label in methods:
        method = METHODS[label]
        needs = {"hard_set": build(erm, val, per_class=HardSetSettings().hard_per_class)} if method is not llr else {}
        settings, began = method.Settings(**changes.get(label, {})), time.perf_counter()
        with quiet():
            fits[label] = fit_supervised(method, train, val, erm, settings=settings, seeds=seeds, **needs)[0]
        seconds[label] = time.perf_counter() - began
    return fits, seconds


def worst_groups(
    fits: dict[str, Fit], test: Embeddings, seeds: int
) -> tuple[dict[str, float], dict[str, Float[np.ndarray, " b"]]]:
    """Worst group by label, the mean over seeds; and of every resample of test images and seeds."""
    rng = np.random.default_rng(0)
    weights = rng.multinomial(seeds, [1 / seeds] * seeds, size=RESAMPLES) / seeds
    correct = {
        label: (fit.head.predict(test.features) == test.y).numpy().T.repeat(seeds // len(fit.seeds), axis=1)
        for label, fit in fits.items()
    }
    draws = resample(np.concatenate(list(correct.values()), axis=1), test.group.numpy()).min(axis=1)  # [b h]
    observed, drawn = {}, {}
    for number, (label, right) in enumerate(correct.items()):
        groups = [right[test.group.numpy() == group].mean(0) for group in np.unique(test.group)]
        observed[label] = float(np.min(groups, axis=0).mean())
        drawn[label] = (draws[:, number * seeds : (number + 1) * seeds] * weights).sum(axis=1)
    return observed, drawn


def cut(splits: dict[str, Embeddings], seed: int) -> dict[str, Embeddings]:
    """The splits with validation and test drawn anew from both, group by group."""
    pool, rng = joined(splits["val"], splits["test"]), np.random.default_rng(seed)
    chosen = np.zeros(len(pool.y), dtype=bool)
    for group, size in enumerate(torch.bincount(splits["val"].group).tolist()):
        chosen[rng.permutation(np.flatnonzero(pool.group.numpy() == group))[:size]] = True
    rows = {"val": chosen, "test": ~chosen}
    new = {split: pool.take(torch.from_numpy(np.flatnonzero(of))) for split, of in rows.items()}
    return {"train": splits["train"], **{split: replace(part, split=split) for split, part in new.items()}}


def halved(splits: dict[str, Embeddings], seed: int) -> dict[str, Embeddings]:
    """One half of validation, and the other in place of test."""
    val = splits["val"]
    half = _halves(val, Scorer(val, "worst_group"), seed)[0]
    rest = replace(val.take((~half.taught).nonzero().squeeze(1)), split="test")
    return {"train": splits["train"], "val": val.take(half.rows), "test": rest}


def measure(
    label: str, splits: dict[str, Embeddings], seeds: Sequence[int], changes: dict[str, dict], methods: Sequence[str]
) -> tuple[str, dict[str, float]]:
    """One line of the table, and as fractions the numbers that the last lines are of."""
    fits, seconds = fitted(splits, seeds, changes, methods)
    test = splits["test"]
    worst, draws = worst_groups(fits, test, len(seeds))
    average = {each: float((fit.head.predict(test.features) == test.y).float().mean()) for each, fit in fits.items()}

    def difference(other: str) -> str:
        if other not in fits:
            return "-"
        observed = worst["HSFM"] - worst[other]
        low, high = difference_interval(draws["HSFM"] - draws[other], observed)
        return f"{100 * observed:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"

    def held_out(each: str) -> str:
        found = fits[each].settings if each in fits else {}
        if "held_out" not in found:
            return "-"
        own, (low, high) = found["held_out"], found["held_out_interval"]
        return f"{100 * own:.1f} [{100 * low:.0f}-{100 * high:.0f}] ({100 * (own - worst[each]):+.1f})"

    of, tried = fits["HSFM"].settings, fits["HSFM"].tables["tried"]
    by_itself = float(tried.loc[tried["chosen"], "held_out"].item()) if len(tried) else np.nan
    chosen = ", ".join(f"{key} {of[key]:.2g}" for key in ("inner_lr", "outer_lr") if key in of)
    cells = [
        label,
        *(f"{100 * worst[each]:.1f} / {100 * average[each]:.1f}" for each in methods),
        *(difference(other) for other in ("LLR", "Tune")),
        *(held_out(each) for each in ("HSFM", "Tune")),
        f"{100 * by_itself:.1f} ({100 * (by_itself - worst['HSFM']):+.1f})",
        "-" if "taught" not in of else f"{100 * np.mean(of['taught']):.1f}",
        f"{chosen}, K_hard {of['hard_per_class']}, epoch {', '.join(map(str, sorted(set(of['kept_epoch']))))}",
        " / ".join(f"{seconds[each]:.0f}" for each in methods),
    ]
    low, high = of.get("held_out_interval", (np.nan, np.nan))
    numbers = {
        "HSFM - LLR": worst["HSFM"] - worst["LLR"],
        "held out - test": of.get("held_out", np.nan) - worst["HSFM"],
        "chosen - test": by_itself - worst["HSFM"],
        "test in the interval": float(low <= worst["HSFM"] <= high),
    }
    return f"| {' | '.join(cells)} |", numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="files' paths up to _train.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--hsfm", nargs="*", default=(), metavar="KEY=VALUE", help="settings of HSFM, in YAML")
    parser.add_argument("--without-tune", action="store_true", help="leave the control out")
    parser.add_argument("--cuts", type=int, default=0, metavar="N", help="cut validation and test anew so many times")
    parser.add_argument("--halves", type=int, default=0, metavar="N", help="halve validation so many times")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    changes = {"HSFM": {key: yaml.safe_load(value) for key, value in (one.split("=", 1) for one in chosen.hsfm)}}
    methods = [name for name in METHODS if name != "Tune" or not chosen.without_tune]
    heads = [
        "set", *methods, "HSFM - LLR", "HSFM - Tune", "HSFM held out (gap)", "Tune held out (gap)", "HSFM chosen (gap)",
        "HSFM taught", "HSFM's choice", f"seconds of {', '.join(methods)}",
    ]  # fmt: skip
    print(f"| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}", flush=True)
    for name in chosen.names:
        found = []
        label = name.rpartition("/")[2]
        splits = import_embeddings({split: f"{name}_{split}.npz" for split in ("train", "val", "test")}, label)
        cuts = {f"{label}, cut {seed}": cut(splits, seed) for seed in range(1, chosen.cuts + 1)}
        # from 100 on, which halves no fit by itself
        cuts |= {f"{label}, half {n}": halved(splits, n) for n in range(100, 100 + chosen.halves)}
        for each, of_cut in (cuts or {label: splits}).items():
            line, numbers = measure(each, of_cut, chosen.seeds, changes, methods)
            found.append(numbers)
            print(line, flush=True)
        frame = 100 * pd.DataFrame(found)
        for words, values in frame.items():
            spread = f", deviation {values.std():.1f}, standard error {values.sem():.1f}" if len(values) > 1 else ""
            print(f"\n{label}, {words}, mean of {len(values)}: {values.mean():+.1f}{spread}", flush=True)


if __name__ == "__main__":
    main()
