import gzip
import hashlib
import io
import os
import shutil
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from hsfm.data.download import RETRIES, SOURCES, download

ARCHIVE = "waterbird_complete95_forest2water2.tar.gz"
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
    url = f"http://127.0.0.1:{server.server_port}/{ARCHIVE}"
    monkeypatch.setitem(SOURCES, "waterbirds", (replace(SOURCES["waterbirds"][0], url=url),))
    return tmp_path / "birds"


def test_waterbirds_are_downloaded_once(server, birds):
    digest = hashlib.sha256(server.data[f"/{ARCHIVE}"]).hexdigest()
    for _ in range(2):
        download("waterbirds", birds)
        assert (birds / "a" / "2.jpg").read_bytes() == BIRDS["birds/a/2.jpg"]
        assert names(birds) == ["a", "metadata.csv"]
        assert names(birds.parent) == ["birds", ARCHIVE, f"{ARCHIVE}.sha256"]
        assert (birds.parent / f"{ARCHIVE}.sha256").read_text() == f"{digest}  {ARCHIVE}\n"
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
    assert str(caught.value).startswith(SOURCES["waterbirds"][0].url)
    assert str(caught.value).endswith(f"; run again, or download it elsewhere and put it at {birds.parent / ARCHIVE}")
    assert "\n" not in str(caught.value)
    assert len(server.requests) == 1 + RETRIES
    assert names(birds.parent) == []
    (birds.parent / ARCHIVE).write_bytes(server.data[f"/{ARCHIVE}"])
    download("waterbirds", birds)
    assert names(birds) == ["a", "metadata.csv"]


def test_other_bytes_than_the_first_time_are_refused(server, birds):
    download("waterbirds", birds)
    shutil.rmtree(birds)
    path = birds.parent / ARCHIVE
    path.write_bytes(b"damaged")
    with pytest.raises(ValueError, match=rf"{path}: its digest is not sha256:.*; delete it to download http"):
        download("waterbirds", birds)
    path.unlink()
    server.data = {f"/{ARCHIVE}": tar({"birds/metadata.csv": b""})}
    with pytest.raises(ValueError, match=rf"does not match.* \({path}.sha256 holds the digest\); run again"):
        download("waterbirds", birds)
    assert names(birds.parent) == [f"{ARCHIVE}.sha256"]


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
    with pytest.raises(ValueError, match=rf"{birds}: holds no metadata.csv; move this folder away to have .*{ARCHIVE}"):
        download("waterbirds", birds)
    assert server.requests == []
    assert names(birds) == ["mine"]


def test_dominoes_are_laid_out_as_torchvision_reads_them(server, tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    served, archives = server.data, []
    for split, n in (("train", 3), ("t10k", 2)):
        images, labels = struct.pack(">iiii", 2051, n, 28, 28), struct.pack(">ii", 2049, n)
        served[f"/{split}-images-idx3-ubyte.gz"] = gzip.compress(images + bytes(n * 784))
        served[f"/{split}-labels-idx1-ubyte.gz"] = gzip.compress(labels + bytes(n))
    served["/cifar-10-python.tar.gz"] = tar({"cifar-10-batches-py/test_batch": b""})
    for archive in SOURCES["dominoes"]:
        name = f"/{Path(archive.url).name}"
        url = f"http://127.0.0.1:{server.server_port}{name}"
        archives.append(replace(archive, url=url, md5=hashlib.md5(served[name]).hexdigest()))
    monkeypatch.setitem(SOURCES, "dominoes", tuple(archives))
    folder = tmp_path / "data"
    download("dominoes", folder)
    assert [len(MNIST(folder, train=train)) for train in (True, False)] == [3, 2]
    assert names(folder / "cifar-10-batches-py") == ["test_batch"]
    (folder / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").unlink()  # as Snakemake does with outputs of a failed job
    download("dominoes", folder)
    assert len(MNIST(folder, train=False)) == 2
    assert len(server.requests) == 5
    assert not list(folder.rglob("*.sha256")), "their digests are published"


def test_the_sources_are_those_of_torchvision():
    from torchvision.datasets import CIFAR10, MNIST

    *digits, cifar = SOURCES["dominoes"]
    assert [(archive.url, archive.md5) for archive in digits] == [
        (MNIST.mirrors[0] + name, md5) for name, md5 in MNIST.resources
    ]
    assert [f"{archive.target}.gz" for archive in digits] == [f"MNIST/raw/{name}" for name, _ in MNIST.resources]
    assert (cifar.url, cifar.target, cifar.md5) == (CIFAR10.url, CIFAR10.base_folder, CIFAR10.tgz_md5)
