"""Time of `hsfm compare` on drawn features, from the command to its end.

    python -m benchmarks.compare --rows 10000 2500 2500 --d 512 --jobs 2

Features are those of `benchmarks.heads`; what follows `--` is handed to the command, by default `--methods erm llr dfr
afr hsfm --seeds 3`.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.heads import drawn
from hsfm.data.table import SPLITS

ASKED = ["--methods", "erm", "llr", "dfr", "afr", "hsfm", "--seeds", "3"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs=3, default=(10_000, 2500, 2500), metavar=("TRAIN", "VAL", "TEST"))
    parser.add_argument("--d", type=int, default=512)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("asked", nargs="*", help="arguments of hsfm compare, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = [f"{folder}/{split}.npz" for split in SPLITS]
        for split, file, n in zip(SPLITS, files, arguments.rows, strict=True):
            part = drawn(split, n, arguments.d)
            np.savez(file, x=part.features.numpy(), y=part.y.numpy(), attribute=part.attribute.numpy())
        command = [sys.executable, "-m", "hsfm.deploy.cli", "compare", *files, "--jobs", str(arguments.jobs)]
        began = time.monotonic()
        out = Path(folder, "compared")
        subprocess.run([*command, *(arguments.asked or ASKED), "--out", out], check=True)
        seconds, used = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime
    print(
        f"{seconds:.1f} s by the clock, {processor:.1f} s of processor, largest process {used.ru_maxrss / 2**20:.1f} GB"
    )


if __name__ == "__main__":
    main()
