import gzip
import hashlib
import io
import os
import pickle
import re
import shutil
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import CIFAR10, MNIST

from hsfm.data.download import RETRIES, WATERBIRDS, download

ARCHIVE = Path(WATERBIRDS).name
BIRDS = {"birds/metadata.csv": b"img_id\n1\n", "birds/a/1.jpg": os.urandom(5000), "birds/a/2.jpg": os.urandom(5000)}


def tar(content: dict[str, bytes], **links: str) -> bytes:
    """A tar.gz of files, and of symbolic links by name."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return buffer.getvalue()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def waits(monkeypatch):
    """Waits that only note how long they would have been."""
    seconds = []
    monkeypatch.setattr("time.sleep", seconds.append)
    return seconds


@pytest.fixture
def birds(server, tmp_path, monkeypatch, waits):
    """A folder to be, and Waterbirds on the loopback."""
    server.data = {f"/{ARCHIVE}": tar(BIRDS)}
    monkeypatch.setattr("hsfm.data.download.WATERBIRDS", f"http://127.0.0.1:{server.server_port}/{ARCHIVE}")
    return tmp_path / "birds"


def test_waterbirds_are_downloaded_once(server, birds):
    for _ in range(2):
        download("waterbirds", birds)
        assert (birds / "a" / "2.jpg").read_bytes() == BIRDS["birds/a/2.jpg"]
        assert names(birds) == ["a", "metadata.csv"]
        assert names(birds.parent) == ["birds", ARCHIVE]
    shutil.rmtree(birds)
    birds.mkdir()  # as Snakemake does for a job's outputs
    download("waterbirds", birds)
    assert names(birds) == ["a", "metadata.csv"], "unpacked once more"
    (birds.parent / ARCHIVE).unlink()  # to save space: the data are enough
    download("waterbirds", birds)
    assert len(server.requests) == 1


def test_passing_errors_and_cuts_are_waited_out(server, birds, waits):
    server.statuses, server.cuts = [503, 200, 200], [None, 100]
    (birds.parent / ".birds.part" / "content" / "half").mkdir(parents=True)  # of a killed job
    download("waterbirds", birds)
    assert names(birds) == ["a", "metadata.csv"]
    assert ".birds.part" not in names(birds.parent)
    assert waits == [1, 2]


@pytest.mark.parametrize(("fault", "reason"), [("statuses", "404 Client Error"), ("cuts", "100 bytes read")])
def test_a_lasting_fault_is_one_line_that_says_where_to_put_the_file(server, birds, fault, reason):
    setattr(server, fault, [404 if fault == "statuses" else 100] * 9)
    with pytest.raises(ValueError, match=reason) as caught:
        download("waterbirds", birds)
    assert re.match(rf"http://.*{ARCHIVE}: ", str(caught.value))
    assert str(caught.value).endswith(f"; run again, or download it elsewhere and put it at {birds.parent / ARCHIVE}")
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1 + RETRIES
    assert names(birds.parent) == []
    (birds.parent / ARCHIVE).write_bytes(server.data[f"/{ARCHIVE}"])
    download("waterbirds", birds)
    assert names(birds) == ["a", "metadata.csv"]


OTHERS = {
    "outside": tar({**BIRDS, "../evil": b"evil"}),
    "link": tar(BIRDS, evil="../../outside"),
    "cut": tar(BIRDS)[:-9000],
    "page": b"<html>login</html>",
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_hostile_or_damaged_archive_is_named_and_nothing_is_unpacked(server, birds, kind):
    server.data = {f"/{ARCHIVE}": OTHERS[kind]}
    with pytest.raises(ValueError, match=rf"{ARCHIVE}: cannot be unpacked \(.*\); delete it to download it again"):
        download("waterbirds", birds)
    assert names(birds.parent) == [ARCHIVE]


def test_a_folder_of_something_else_is_left_alone(server, birds):
    birds.mkdir()
    (birds / "mine").write_text("mine")
    with pytest.raises(ValueError, match=rf"{birds}: holds no metadata.csv; move this folder away to have "):
        download("waterbirds", birds)
    assert server.requests == []
    assert names(birds) == ["mine"]


def test_dominoes_are_what_torchvision_downloads(server, tmp_path, monkeypatch):
    served, url, folder = server.data, f"http://127.0.0.1:{server.server_port}/", tmp_path / "data"
    for split, n in (("train", 3), ("t10k", 2)):
        images, labels = struct.pack(">iiii", 2051, n, 28, 28), struct.pack(">ii", 2049, n)
        served[f"/{split}-images-idx3-ubyte.gz"] = gzip.compress(images + bytes(n * 784))
        served[f"/{split}-labels-idx1-ubyte.gz"] = gzip.compress(labels + bytes(n))
    digests = [(name[1:], hashlib.md5(content).hexdigest()) for name, content in served.items()]
    monkeypatch.setattr(MNIST, "mirrors", [url])
    monkeypatch.setattr(MNIST, "resources", digests)
    batch = pickle.dumps({"data": np.zeros((1, 3072), np.uint8), "labels": [1]})
    served["/cifar.tar.gz"] = tar({"cifar-10-batches-py/data_batch_1": batch})
    for name, value in {
        "url": f"{url}cifar.tar.gz",
        "tgz_md5": hashlib.md5(served["/cifar.tar.gz"]).hexdigest(),
        "train_list": [("data_batch_1", hashlib.md5(batch).hexdigest())],
        "test_list": [],
        "_load_meta": lambda self: None,
    }.items():
        monkeypatch.setattr(CIFAR10, name, value)
    for _ in range(2):
        download("dominoes", folder)
    assert [len(MNIST(folder, train=train)) for train in (True, False)] == [3, 2]
    assert names(folder / "cifar-10-batches-py") == ["data_batch_1"]
    assert len(set(server.requests)) == 5
    (folder / "MNIST/raw/t10k-labels-idx1-ubyte").unlink()  # as Snakemake does with outputs of a failed job
    download("dominoes", folder)
    assert len(set(server.requests)) == 5
    shutil.rmtree(folder)
    served.clear()
    with pytest.raises(ValueError, match=f"{folder}: .*; run again, or put what torchvision") as caught:
        download("dominoes", folder)
    assert "\n" not in str(caught.value)
