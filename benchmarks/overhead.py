"""Overhead of the workflow beyond the scripts' own work: wall time of `snakemake` on a fresh copy of the repository.

A script's own work begins when it opens its log, which it does as soon as its libraries are loaded, and ends with its
last line. Starting Snakemake, planning, starting interpreters and loading libraries is overhead, and so is waiting
while nothing works. Where jobs run side by side, a second in which at least one of them works is one of work.

    python -m benchmarks.overhead [--cores 2] [-- --configfile config/minimal.yaml]
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
COPIED = ("Snakefile", "environment.yml", "hsfm", "snakemake_logger_plugin_hsfm", "workflow", "config", "profiles")

PROBE = """
import atexit, json, os, re, sys, time

script = re.search(r"\\.snakemake/scripts/tmp\\w+\\.(\\w+)\\.py$", sys.orig_argv[-1])
if script is not None:
    found = {"script": script[1], "started": time.time()}

    def watch(event, arguments):
        if event == "open" and "works" not in found and str(arguments[0]).endswith(".log"):
            found["works"] = time.time()

    def write():
        found["ended"] = time.time()
        with open(os.path.join(os.path.dirname(__file__), f"{os.getpid()}.json"), "w") as file:
            json.dump(found, file)

    sys.addaudithook(watch)
    atexit.register(write)
"""


def covered(spans: Sequence[tuple[float, float]]) -> float:
    """Seconds in which at least one span runs."""
    total, until = 0.0, float("-inf")
    for begin, end in sorted(spans):
        total += max(end - max(begin, until), 0.0)
        until = max(until, end)
    return total


def measure(folder: Path, cores: int, arguments: Sequence[str]) -> tuple[float, list[dict]]:
    """Wall seconds of one run from nothing in an empty `folder`, and when each script started, worked and ended."""
    probe, copy = folder / "probe", folder / "hsfm"
    probe.mkdir()
    (probe / "sitecustomize.py").write_text(PROBE)
    copy.mkdir()
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(ROOT / name, copy / name)
    environment = {**os.environ, "PYTHONPATH": f"{probe}{os.pathsep}{copy}"}
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores), *arguments]
    start = time.time()
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
    wall = time.time() - start
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return wall, [json.loads(path.read_text()) for path in probe.glob("*.json")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cores", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--stages", action="store_true", help="a line per script, too")
    parser.add_argument("arguments", nargs="*", help="of snakemake, after --")
    chosen = parser.parse_args()
    print("| cores | jobs | wall, s | scripts' own work, s | at least one works, s | overhead |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for cores in chosen.cores:
        with tempfile.TemporaryDirectory() as folder:
            wall, jobs = measure(Path(folder), cores, chosen.arguments)
        spans = [(job["works"], job["ended"]) for job in jobs]
        work, busy = sum(end - begin for begin, end in spans), covered(spans)
        print(f"| {cores} | {len(jobs)} | {wall:.2f} | {work:.2f} | {busy:.2f} | {100 * (1 - busy / wall):.0f} % |")
        for name in sorted({job["script"] for job in jobs}) if chosen.stages else ():
            own = [job for job in jobs if job["script"] == name]
            loading = sum(job["works"] - job["started"] for job in own)
            working = sum(job["ended"] - job["works"] for job in own)
            print(f"{name}: {len(own)} jobs, {loading:.1f} s of loading, {working:.1f} s of work")


if __name__ == "__main__":
    main()
