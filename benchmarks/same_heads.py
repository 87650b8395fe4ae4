"""Equality of results between a commit and this checkout: every method's heads tensor by tensor, and every score.

Both run the workflow from nothing in an empty folder, one after the other, on the default configuration and on
config/minimal.yaml. Prints the wall times of both; ends with 1 and a line per difference where there is one.

    python -m benchmarks.same_heads 7014fe2 [--cores 2] [--only minimal] [--here overlay.yaml]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from safetensors.torch import load_file

ROOT = Path(__file__).parent.parent
CONFIGURATIONS = {"default": (), "minimal": ("config/minimal.yaml",)}
KEYS = ["dataset", "run", "method", "seed", "split", "y", "attribute"]  # a row of scores


@contextmanager
def worktree(commit: str) -> Iterator[Path]:
    """A checkout of `commit` in a folder of its own, removed at the end."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "checkout")
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", path, commit], cwd=ROOT, check=True)
        try:
            yield path
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", path], cwd=ROOT, check=True)


def execute(code: Path, folder: Path, cores: int, overlays: Sequence[str | Path]) -> float:
    """Run the workflow of the checkout `code` in an empty `folder`; wall seconds.

    Raises RuntimeError with all that was printed where it fails.
    """
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--snakefile", code / "Snakefile"]
    command += ["--directory", folder, *(["--configfile", *overlays] if overlays else [])]
    start = time.perf_counter()
    done = subprocess.run(
        command, cwd=code, env={**os.environ, "PYTHONPATH": str(code)}, capture_output=True, text=True
    )
    wall = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"{code} on {list(map(str, overlays))}:\n{done.stdout}{done.stderr}")
    return wall


def differences(before: Path, after: Path) -> Iterator[str]:
    """One line per file of heads or scores of two folders of results that is missing on a side or differs."""
    for pattern, compare in (("heads.safetensors", heads_differ), ("scores.parquet", scores_differ)):
        files = {folder: {path.relative_to(folder) for path in folder.rglob(pattern)} for folder in (before, after)}
        if not files[before]:
            yield f"{before}: no {pattern}"
        for path in sorted(files[before] ^ files[after]):
            yield f"{path}: only {'before' if path in files[before] else 'after'}"
        for path in sorted(files[before] & files[after]):
            yield from (f"{path}: {line}" for line in compare(before / path, after / path))


def heads_differ(before: Path, after: Path) -> Iterator[str]:
    """A line per tensor of two files that is not the same bit for bit."""
    old, new = load_file(before), load_file(after)
    if old.keys() != new.keys():
        yield f"tensors {sorted(old)} and {sorted(new)}"
    for name in sorted(old.keys() & new.keys()):
        if old[name].shape != new[name].shape or old[name].dtype != new[name].dtype:
            yield f"{name} is {list(old[name].shape)}, {old[name].dtype} and {list(new[name].shape)}, {new[name].dtype}"
        elif not old[name].equal(new[name]):
            yield f"{name} differs by up to {float((old[name] - new[name]).abs().max()):.3g}"


def scores_differ(before: Path, after: Path) -> Iterator[str]:
    """A line where two tables of scores do not have the same rows with the same counts."""
    old, new = (pd.read_parquet(path).sort_values(KEYS, ignore_index=True) for path in (before, after))
    columns = [*KEYS, "n", "correct", "accuracy"]
    if not old[columns].equals(new[columns]):
        rows = old[columns].merge(new[columns], how="outer", indicator="side")
        yield f"{(rows['side'] != 'both').sum()} rows of scores differ"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", help="what this checkout is compared with")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--only", choices=CONFIGURATIONS, nargs="+", default=list(CONFIGURATIONS))
    parser.add_argument("--here", type=Path, help="overlay for this checkout alone: old settings under new defaults")
    chosen = parser.parse_args()
    here = [chosen.here.resolve()] if chosen.here else []
    found = []
    print("| configuration | before, s | after, s | ratio | files of heads | files of scores | differences |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with worktree(chosen.commit) as old, tempfile.TemporaryDirectory() as scratch:
        for name in chosen.only:
            folder = {side: Path(scratch, name, side) for side in ("before", "after")}
            before = execute(old, folder["before"], chosen.cores, [old / file for file in CONFIGURATIONS[name]])
            after = execute(ROOT, folder["after"], chosen.cores, [*(ROOT / f for f in CONFIGURATIONS[name]), *here])
            lines = list(differences(folder["before"] / "results", folder["after"] / "results"))
            found += [f"{name}: {line}" for line in lines]
            heads, scores = (len([*folder["after"].rglob(f)]) for f in ("heads.safetensors", "scores.parquet"))
            print(
                f"| {name} | {before:.1f} | {after:.1f} | {after / before:.2f} | {heads} | {scores} | {len(lines)} |",
                flush=True,
            )
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
