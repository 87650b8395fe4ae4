"""Fixtures that tests share: small embeddings on which a head trained the usual way leans on a spurious feature; a
server; a browser."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from sklearn.linear_model import LogisticRegression

from hsfm.features.embeddings import Embeddings
from hsfm.heads.head import Head
from tests.loopback import serving
from tests.repository import MINIMAL, copy_repository, snakemake

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny tensors gain nothing from threads, and sums keep their order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def planted(split: str, counts: list[int], *, seed: int, d: int = 12, classes: int = 2) -> Embeddings:
    """Features whose first coordinate shows the attribute strongly, the second ones the class weakly, the rest noise.
    The early network of val goes by the first alone, which it takes for class 0 or 1.

    counts: images per group, `classes * 2` of them, group = 2 y + attribute.
    """
    generator = torch.Generator().manual_seed(seed)
    group = torch.repeat_interleave(torch.arange(2 * classes), torch.tensor(counts))
    group = group[torch.randperm(len(group), generator=generator)]
    y, attribute = group // 2, group % 2
    features = torch.randn(len(group), d, generator=generator)
    features[:, 0] = 0.5 * features[:, 0] + 6.0 * (attribute - 0.5)
    features[torch.arange(len(y)), 1 + y] += 2.5
    early_logits = torch.zeros(len(y), classes)
    early_logits[:, :2] = features[:, :1] * torch.tensor([-0.5, 0.5])
    return Embeddings(
        features=features,
        y=y,
        attribute=attribute,
        image_id=tuple(f"{split}-{i:04d}" for i in range(len(y))),
        class_names=tuple(f"class {i}" for i in range(classes)),
        attribute_names=("left", "right"),
        dataset="planted",
        split=split,
        checkpoint_sha256="a" * 64,
        details={"backbone": "none", "transform": {}},
        extra={"early_logits": early_logits} if split == "val" else {},
    )


@pytest.fixture(scope="session")
def splits() -> dict[str, Embeddings]:
    return {
        "train": planted("train", [390, 10, 10, 390], seed=0),
        "val": planted("val", [60, 60, 60, 60], seed=1),
        "test": planted("test", [150, 150, 150, 150], seed=2),
    }


@pytest.fixture(scope="session")
def erm_head(splits) -> Head:
    """Logistic regression on train: what ERM's head is on frozen features."""
    train = splits["train"]
    model = LogisticRegression(C=1.0).fit(train.features.numpy(), train.y.numpy())
    weight = torch.tensor(model.coef_, dtype=torch.float32)
    bias = torch.tensor(model.intercept_, dtype=torch.float32)
    return Head(torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2)


@pytest.fixture(scope="session")
def minimal_run(tmp_path_factory) -> Path:
    """A copy in which config/minimal.yaml has run from nothing; one for all processes of the tests, to be read only."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with FileLock(shared / "minimal.lock"):
        folder = shared / "minimal/hsfm"
        if not (shared / "minimal.done").exists():
            snakemake(copy_repository(folder), *MINIMAL)
            (shared / "minimal.done").touch()
    return folder


@pytest.fixture
def server(monkeypatch):
    """A server for downloads; the proxies of a user's machine are left out."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as server:
        yield server


@pytest.fixture(scope="module")
def browser():
    """The system's Chromium; without one a test is skipped, or fails where HSFM_BROWSER=required."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        assert os.environ.get("HSFM_BROWSER") != "required", f"none of {', '.join(BROWSERS)} is installed"
        pytest.skip(f"none of {', '.join(BROWSERS)} is installed")
    from playwright.sync_api import sync_playwright  # other tests run where it is not installed

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])  # tests may run as root
        yield started
        started.close()
