"""Downloads of published datasets, checked by digest and unpacked as a whole."""

import gzip
import os
import shutil
import sys
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import pooch

from hsfm.core.files import write_atomically

RETRIES = 3


@dataclass(frozen=True)
class Archive:
    """One file on a server and what it becomes."""

    url: str
    target: str  # the folder, or the one file that it holds compressed, relative to the dataset's folder
    holds: str = ""  # a file in that folder; empty for one compressed file
    md5: str | None = None  # as published


# MNIST and CIFAR-10: addresses, digests and layout are torchvision's, whose loaders then find the files.
SOURCES = {
    "waterbirds": (
        Archive("https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz", ".", "metadata.csv"),
    ),
    "dominoes": (
        *(
            Archive(f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz", f"MNIST/raw/{name}", md5=md5)
            for name, md5 in (
                ("train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
                ("train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432"),
                ("t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3"),
                ("t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c"),
            )
        ),
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "cifar-10-batches-py",
            "test_batch",
            "c58f30108f718f92721af3b95e74349a",
        ),
    ),
}


def download(source: str, folder: str | Path) -> None:
    """Download and unpack what `folder` lacks of the dataset `source`; what is there stays as it is.

    An archive is kept beside what it becomes. Where no digest is published, the SHA-256 of the first one is written to
    `{archive}.sha256`, and a later one must have the same. Raises ValueError, in one line that says what to do, where a
    download fails, an archive has another digest or cannot be unpacked, or a folder has content but not the dataset's.
    """
    folder = Path(folder)
    work = folder.with_name(f".{folder.name}.part")  # of a killed job it stays, until the next one
    for archive in SOURCES[source]:
        target = folder / archive.target
        path = target.with_name(os.path.basename(archive.url))
        if (target / archive.holds).exists():
            continue
        if target.is_dir() and any(target.iterdir()):
            raise ValueError(f"{target}: holds no {archive.holds}; move this folder away to have {path} in its place")
        shutil.rmtree(work, ignore_errors=True)
        try:
            _fetch(archive, path, work)
            _unpack(path, target, work / "content", folder=bool(archive.holds))
            if archive.md5 is None:
                with write_atomically(f"{path}.sha256") as temporary:
                    temporary.write_text(f"{pooch.file_hash(path)}  {path.name}\n")  # as sha256sum writes it
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _fetch(archive: Archive, path: Path, work: Path) -> None:
    """Have the archive at `path` and its digest checked. work: a folder for what is not whole yet."""
    record = Path(f"{path}.sha256")
    recorded = f"sha256:{record.read_text()[:64]}" if record.exists() else None
    known = f"md5:{archive.md5}" if archive.md5 else recorded
    if not path.exists():
        client = pooch.create(
            work, "", registry={path.name: known}, urls={path.name: archive.url}, retry_if_failed=RETRIES
        )
        try:
            fetched = client.fetch(path.name, downloader=pooch.HTTPDownloader(progressbar=sys.stderr.isatty()))
        except (ValueError, OSError) as error:
            where = f" ({record} holds the digest)" if known and known == recorded else ""
            advice = f"run again, or download it elsewhere and put it at {path}"
            raise ValueError(f"{archive.url}: {error}{where}; {advice}") from error
        path.parent.mkdir(parents=True, exist_ok=True)
        os.chmod(fetched, 0o644)  # pooch leaves it to its owner alone
        os.replace(fetched, path)
    elif not pooch.hashes.hash_matches(path, known):
        raise ValueError(f"{path}: its digest is not {known}; delete it to download {archive.url} again")


def _unpack(archive: Path, target: Path, content: Path, *, folder: bool) -> None:
    """Unpack to `content`, then move to `target`. folder: of a tar; a top folder that holds everything is `target`."""
    content.parent.mkdir(parents=True, exist_ok=True)
    try:
        if folder:
            shutil.unpack_archive(archive, content, filter="data")
        else:
            with gzip.open(archive) as source, open(content, "wb") as sink:
                shutil.copyfileobj(source, sink)
    except (tarfile.TarError, shutil.ReadError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{archive}: cannot be unpacked ({reason}); delete it to download it again") from error
    inside = list(content.iterdir()) if folder else []
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(inside[0] if len(inside) == 1 else content, target)
