"""HSFM by its defaults on features of photographs, beside LLR and its control Tune: test accuracies and held-out ones.

    python -m benchmarks.real_heads FOLDER/dominoes_frozen FOLDER/style_tuned [--seeds 0 1 2] [--hsfm tune=null]

Reads {NAME}_train.npz, _val.npz and _test.npz with x, y, attribute. ERM's head is a logistic regression on train.
Percent on test, worst group / average, mean over seeds. Differences in the worst group have 95 % intervals over test
images, drawn within their groups, and seeds, the same for both methods. `held out` is what the method's own choice gave
without test, `gap` its distance to test.
"""

import argparse
import time
from collections.abc import Sequence

import numpy as np
import torch
import yaml
from jaxtyping import Float

from hsfm.core.progress import quiet
from hsfm.evaluation.bootstrap import RESAMPLES, difference_interval, resample
from hsfm.features.embeddings import Embeddings
from hsfm.features.imported import import_embeddings
from hsfm.heads.erm_head import fit_head
from hsfm.heads.fit import Fit
from hsfm.heads.hard_set import HardSetSettings, build
from hsfm.heads.supervision import fit_supervised
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


def measure(name: str, seeds: Sequence[int], changes: dict[str, dict], methods: Sequence[str]) -> tuple[str, float]:
    """One line of the table, and the difference of HSFM from LLR."""
    label = name.rpartition("/")[2]
    splits = import_embeddings({split: f"{name}_{split}.npz" for split in ("train", "val", "test")}, label)
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
        found = fits[each].settings.get("held_out") if each in fits else None
        return "-" if found is None else f"{100 * found:.1f} ({100 * (found - worst[each]):+.1f})"

    of = fits["HSFM"].settings
    chosen = ", ".join(f"{key} {of[key]:.2g}" for key in ("inner_lr", "outer_lr") if key in of)
    cells = [
        label,
        *(f"{100 * worst[each]:.1f} / {100 * average[each]:.1f}" for each in methods),
        *(difference(other) for other in ("LLR", "Tune")),
        *(held_out(each) for each in ("HSFM", "Tune")),
        "-" if "taught" not in of else f"{100 * np.mean(of['taught']):.1f}",
        f"{chosen}, K_hard {of['hard_per_class']}, epoch {', '.join(map(str, sorted(set(of['kept_epoch']))))}",
        " / ".join(f"{seconds[each]:.0f}" for each in methods),
    ]
    return f"| {' | '.join(cells)} |", worst["HSFM"] - worst["LLR"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", help="files' paths up to _train.npz")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--hsfm", nargs="*", default=(), metavar="KEY=VALUE", help="settings of HSFM, in YAML")
    parser.add_argument("--without-tune", action="store_true", help="leave the control out")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    changes = {"HSFM": {key: yaml.safe_load(value) for key, value in (one.split("=", 1) for one in chosen.hsfm)}}
    methods = [name for name in METHODS if name != "Tune" or not chosen.without_tune]
    heads = [
        "set", *methods, "HSFM - LLR", "HSFM - Tune", "HSFM held out (gap)", "Tune held out (gap)", "HSFM taught",
        "HSFM's choice", f"seconds of {', '.join(methods)}",
    ]  # fmt: skip
    print(f"| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}", flush=True)
    differences = []
    for name in chosen.names:
        line, difference = measure(name, chosen.seeds, changes, methods)
        differences.append(difference)
        print(line, flush=True)
    print(f"\nHSFM - LLR, mean of {len(differences)}: {100 * np.mean(differences):+.1f}")


if __name__ == "__main__":
    main()
