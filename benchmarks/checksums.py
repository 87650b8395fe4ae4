"""Cost of checksums: embeddings and weights written and read, with them and as the libraries do it without.

python -m benchmarks.checksums [--rows 20000] [--features 2048] [--weights 25000000]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from hsfm.core.files import in_bytes, read_safetensors, write_safetensors

ROUNDS = 5


def fastest(works: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Seconds of each, the best of rounds in which they take turns."""
    seconds = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    return {name: min(each) for name, each in seconds.items()}


def of_parquet(path: Path, rows: int, features: int) -> dict[str, float]:
    flat = pa.array(torch.randn(rows * features).numpy())
    table = pa.table({"feature": pa.FixedSizeListArray.from_arrays(flat, features)})

    def write(checksum: bool) -> None:
        options = {"use_dictionary": False, "compression": "none", "row_group_size": 256}
        pq.write_table(table, path, write_page_checksum=checksum, **options)

    def read(checksum: bool) -> int:
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=checksum) as file:
            return sum(len(batch) for batch in file.iter_batches())

    works = {"write": lambda: write(False), "read": lambda: read(False)}
    return fastest({**works, "write, checked": lambda: write(True), "read, checked": lambda: read(True)})


def of_safetensors(path: Path, weights: int) -> dict[str, float]:
    tensors = {"weight": torch.randn(weights)}

    def total(tensors: dict[str, torch.Tensor]) -> float:
        return float(tensors["weight"].sum())  # they lie in a mapped file until somebody looks

    return fastest(
        {
            "write": lambda: save_file(tensors, path),
            "read": lambda: total(load_file(path)),
            "write, checked": lambda: write_safetensors(path, tensors, {}),
            "read, checked": lambda: total(read_safetensors(path)[0]),
        }
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=2048)
    parser.add_argument("--weights", type=int, default=25_000_000)
    chosen = parser.parse_args()
    print("| file | bytes | write, s | with checksums | read, s | with checksums |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for kind, n, measure in (
            ("embeddings.parquet", chosen.rows * chosen.features,
             lambda path: of_parquet(path, chosen.rows, chosen.features)),
            ("backbone.safetensors", chosen.weights, lambda path: of_safetensors(path, chosen.weights)),
        ):  # fmt: skip
            seconds = measure(Path(folder, kind))
            cells = (seconds[name] for name in ("write", "write, checked", "read", "read, checked"))
            print(f"| {kind} | {in_bytes(4 * n)} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")


if __name__ == "__main__":
    main()
