"""Time of every method on the same embeddings, three seeds each.

    python -m benchmarks.heads results/minibirds/run0/erm
    python -m benchmarks.heads --rows 162770 19867 --d 2048

With a folder of a run, its embeddings and ERM's head are taken; else features of that shape are drawn, with CelebA's
shares of classes and attributes. The seconds are of `fit_supervised`, in this process.
"""

import argparse
import resource
import time
from importlib import import_module
from pathlib import Path

import torch

from hsfm.core.progress import quiet
from hsfm.features.embeddings import Embeddings, read_embeddings
from hsfm.heads.fit import NotApplicable
from hsfm.heads.hard_set import build
from hsfm.heads.head import Head, read_heads
from hsfm.heads.known_methods import found
from hsfm.heads.supervision import fit_supervised

VARIANTS = {  # of a method, settings that ask for other rows
    "afr": [{"on": "train"}, {"on": "val"}],
    "balance": [{"on": on, "how": how} for on in ("val", "train") for how in ("reweight", "subsample")],
    "dfr": [{"on": "val"}, {"on": "train"}, {"on": "both"}],
    "group_dro": [{"on": "val"}, {"on": "train"}],
}
SHARES = (0.44, 0.41, 0.14, 0.01)  # of CelebA's groups
HELD_OUT = 0.2  # of train, for AFR


def drawn(split: str, rows: int, d: int) -> Embeddings:
    """Features of low rank, cut off at 0 as after a ReLU, which show class and attribute."""
    generator = torch.Generator().manual_seed(len(split))
    group = torch.multinomial(torch.tensor(SHARES), rows, replacement=True, generator=generator)
    hidden = torch.randn(rows, 64, generator=generator)
    hidden[:, 0] += 3 * (group // 2)
    hidden[:, 1] += 3 * (group % 2)
    mixing = torch.randn(64, d, generator=torch.Generator().manual_seed(0)) / 8
    features = (hidden @ mixing + 0.3 * torch.randn(rows, d, generator=generator)).relu()
    return Embeddings(
        features, group // 2, group % 2, tuple(map(str, range(rows))), ("dark", "blond"), ("female", "male"),
        dataset="drawn", split=split, checkpoint_sha256="0" * 64,
        extra={"early_logits": torch.randn(rows, 2, generator=generator)},
    )  # fmt: skip


def erm_head(train: Embeddings) -> Head:
    """A head of few gradient steps on train."""
    head = torch.nn.Linear(train.features.shape[1], train.n_classes)
    optimizer = torch.optim.Adam(head.parameters(), lr=1e-3)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(head(train.features), train.y).backward()
        optimizer.step()
    return Head.of(head)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="of a network in a run's results")
    parser.add_argument("--rows", type=int, nargs=2, default=(4000, 1000), metavar=("TRAIN", "VAL"))
    parser.add_argument("--d", type=int, default=128)
    parser.add_argument("--methods", nargs="*", help="all by default")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.folder:
        folder = Path(arguments.folder)
        train, val = (read_embeddings(folder / f"embeddings/{split}.parquet") for split in ("train", "val"))
        erm = read_heads(folder / "heads.safetensors").head[0]
    else:
        train, val = (drawn(split, n, arguments.d) for split, n in zip(("train", "val"), arguments.rows, strict=True))
        erm = erm_head(train)
    names = arguments.methods or [name for name, method in found().items() if not method.images]
    started = time.monotonic()
    print("method | settings | seconds | of processor | summary")
    for name in names:
        module = import_module(f"hsfm.methods.{name}")
        needs = {"hard_set": build(erm, val, per_class=128)} if "hard_set" in getattr(module, "NEEDS", ()) else {}
        for settings in VARIANTS.get(name, [{}]):
            share = (name, settings.get("on")) == ("afr", "train")
            rows = train.take(torch.arange(int(HELD_OUT * len(train.y)))) if share else train
            began, used = time.monotonic(), time.process_time()
            try:
                with quiet():
                    of = module.Settings(**settings)
                    said = fit_supervised(module, rows, val, erm, settings=of, seeds=(0, 1, 2), **needs)[0].summary
            except NotApplicable as error:
                said = str(error)
            took, used = time.monotonic() - began, time.process_time() - used
            print(f"{name} | {settings or ''} | {took:.1f} | {used:.1f} | {said}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    took, used = time.monotonic() - started, time.process_time()
    print(f"in all {took:.1f} s, {used:.1f} s of processor, at most {peak:.1f} GB")


if __name__ == "__main__":
    main()
