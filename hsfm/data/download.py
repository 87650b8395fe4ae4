"""Resumable downloads with verified checksums, and atomic unpacking of archives.

urllib suffices: resuming, noticing a cut and comparing digests would be left to this module by any other client. It
follows the environment's proxies (https_proxy, no_proxy) and certificates (SSL_CERT_FILE).
"""

import fcntl
import gzip
import hashlib
import json
import logging
import os
import re
import shutil
import ssl
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path, PureWindowsPath
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from hsfm.core.files import write_atomically
from hsfm.core.progress import Progress, track

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """One file on a server, and what it becomes; paths are relative to the dataset's folder."""

    url: str
    path: str  # where the archive is kept
    target: str  # the folder that it becomes, or the one file that lies in it compressed
    files: tuple[str, ...] = ()  # what the folder holds at least; empty where the target is a file
    md5: str | None = None  # as published


def _mnist(name: str, md5: str) -> Archive:
    url = f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz"
    return Archive(url, f"MNIST/raw/{name}.gz", f"MNIST/raw/{name}", md5=md5)


# MNIST and CIFAR-10: addresses, digests and layout are torchvision's, whose loaders then find the files. Its second
# mirror of MNIST, yann.lecun.com, has answered 403 for years and is left out.
SOURCES = {
    "waterbirds": (
        Archive(
            "https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz",
            "../waterbird_complete95_forest2water2.tar.gz",
            ".",
            ("metadata.csv",),
        ),
    ),
    "dominoes": (
        _mnist("train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
        _mnist("train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432"),
        _mnist("t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3"),
        _mnist("t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c"),
        Archive(
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "cifar-10-python.tar.gz",
            "cifar-10-batches-py",
            (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
            "c58f30108f718f92721af3b95e74349a",
        ),
    ),
}


def get_waterbirds(folder: str | Path) -> None:
    """Have Waterbirds in `folder`, its metadata.csv directly there, and the archive beside `folder`; see `get`."""
    get(SOURCES["waterbirds"], Path(folder))


def get_dominoes(folder: str | Path) -> None:
    """Have MNIST and CIFAR-10, of which Dominoes is made, in `folder` as torchvision lays them out; see `get`."""
    get(SOURCES["dominoes"], Path(folder))


def get(archives: tuple[Archive, ...], folder: Path) -> None:
    """Download and unpack what `folder` lacks.

    What is there stays as it is. Archives are kept, and checked on every call; one that was deleted is not missed while
    its data are there, and its digest, which stays, checks the next download. A second process waits for the first.
    Raises ValueError as `fetch` and `unpack` do, and where a folder has content but lacks one of its files.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with suppress(OSError):  # some clusters' file systems have no locks, and a read-only folder needs none
            fcntl.flock(stack.enter_context(open(folder.parent / ".hsfm-download.lock", "w")), fcntl.LOCK_EX)
        for archive in archives:
            _get_one(archive, folder)


def _get_one(archive: Archive, folder: Path) -> None:
    path, target = Path(os.path.normpath(folder / archive.path)), folder / archive.target
    there = _taken(target)
    if not there or (path.exists() and _recorded(path)):
        fetch(archive.url, path, md5=archive.md5)
    if not there and archive.files:
        unpack(path, target)
    elif not there:
        with gzip.open(path) as source, write_atomically(target) as temporary, open(temporary, "wb") as sink:
            shutil.copyfileobj(source, sink)
    for name in archive.files:
        if not (target / name).exists():
            raise ValueError(f"{target}: holds no {name}; move this folder away to have {path} unpacked in its place")


def _taken(path: Path) -> bool:
    """Whether something is there. An empty folder is nothing: Snakemake makes those of the outputs before a job."""
    return os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir()))


# Downloading ----------------------------------------------------------------------------------------------------------


def fetch(
    url: str,
    path: str | Path,
    *,
    sha256: str | None = None,
    md5: str | None = None,
    retries: int = 5,
    timeout: float = 30.0,
    wait: Callable[[float], Any] = time.sleep,
) -> str:
    """Download `url` to `path` unless it is there, and check it either way; its SHA-256.

    The digest is written to `{path}.sha256` the first time, as sha256sum writes it, and must be the same ever after.
    What a cut or a kill leaves is `{path}.part`: the next try goes on from there if the server still has the same file.
    retries: further tries in a row that bring nothing, after waits of 1, 2, 4, ... s. timeout: seconds of silence.

    Raises ValueError, in one line, where there is no connection, the server has an error or no such file, or a digest
    differs (a download is then deleted, a file that was there before is left). Not for two processes at a time.
    """
    path, part, sidecar = Path(path), Path(f"{path}.part"), Path(f"{path}.sha256")
    recorded, fresh = _recorded(path), not path.exists()
    if fresh:
        path.parent.mkdir(parents=True, exist_ok=True)
        log.info("downloading %s", url)
        _download(url, path, part, retries, timeout, wait)
    found = {kind: _digest(part if fresh else path, kind) for kind in ("sha256", "md5")}
    for kind, wanted, source in (
        ("sha256", sha256, "as given"),
        ("md5", md5, "as given"),
        ("sha256", recorded, f"as in {sidecar.name}, to be deleted if the file is meant to have changed"),
    ):
        if wanted is not None and found[kind] != wanted.lower():
            advice = f"{url} sent it, and it is deleted; run again" if fresh else f"delete it to download {url} again"
            if fresh:
                _discard(part)
            raise ValueError(f"{path}: {kind} is {found[kind]}, expected {wanted} ({source}); {advice}")
    if recorded is None:
        with write_atomically(sidecar) as temporary:
            temporary.write_text(f"{found['sha256']}  {path.name}\n")
    if fresh:
        part.replace(path)
        log.info("downloaded %s, SHA-256 %s", path, found["sha256"])
    if _state(part).exists():
        _discard(part)
    return found["sha256"]


def _digest(file: Path, kind: str) -> str:
    with open(file, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()


def _recorded(path: Path) -> str | None:
    """The SHA-256 in `{path}.sha256`; None where there is no such file."""
    sidecar = Path(f"{path}.sha256")
    if not sidecar.exists():
        return None
    text = sidecar.read_text(errors="replace")
    match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)\n?", text)
    if not match or match[2] != path.name:
        raise ValueError(f"{sidecar}: holds {text[:80]!r}, expected 64 hexadecimal digits, two blanks and {path.name}")
    return match[1]


def _download(url: str, path: Path, part: Path, retries: int, timeout: float, wait: Callable[[float], Any]) -> None:
    failures, furthest = 0, _size(part)
    while True:
        try:
            return _stream(url, part, timeout)
        except (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
            code = None
            if isinstance(error, HTTPError):
                error.close()
                code = error.code
            if code == 416:  # the server's file ends before ours goes on
                _discard(part)
            useless, size = _useless(error, code, failures > 0), _size(part)
            failures, furthest = (1 if size > furthest else failures + 1), max(size, furthest)
            reason = f"{f'HTTP {code} ' if code else ''}{getattr(error, 'reason', '') or error or type(error).__name__}"
            if useless or failures > retries:
                kept = f" to go on from the {size} bytes in {part}" if size else ""
                advice = f"run again{kept}, or download it elsewhere and put it at {path}"
                raise ValueError(f"{url}: {reason}; {advice}") from error
            log.info("%s: %s; %d bytes are here, next try in %d s", url, reason, size, 2 ** (failures - 1))
            wait(2.0 ** (failures - 1))


def _useless(error: Exception, code: int | None, had_contact: bool) -> bool:
    """Whether to try again is useless: the server refuses, or there is no way to it and never was in this call."""
    if code is not None:
        return code not in (416, 429) and code < 500
    return isinstance(error, URLError) and not had_contact and not isinstance(error.reason, ConnectionResetError)


def _stream(url: str, part: Path, timeout: float) -> None:
    """Bring `part` as far as one connection does; an error of the network says that it is not whole yet.

    The invariant: `part` is the beginning of the file that its state describes.
    """
    state = _state(part)
    known = json.loads(state.read_text()) if state.exists() else {}
    # without a size and one of the others, another file could pass for this one
    start = _size(part) if known.get("size") and (known["etag"] or known["last_modified"]) else 0
    if start and start == known["size"]:  # killed between the last byte and the end of `fetch`
        return
    headers = {"User-Agent": "hsfm", **({"Range": f"bytes={start}-"} if start else {})}
    with urlopen(Request(url, headers=headers), timeout=timeout) as response:
        start = start if response.status == 206 else 0
        found = _describe(response, url, start)
        if start and found != known:
            _discard(part)
            raise ConnectionError("the server has another file by now")
        if found["size"] is None and "Transfer-Encoding" not in response.headers:
            raise URLError("the server does not say how long the file is, so that a cut would go unseen")
        with (
            open(part, "ab" if start else "wb") as file,
            Progress(part.stem, found["size"], "B", done=start) as bar,
        ):
            with write_atomically(state) as temporary:
                temporary.write_text(json.dumps(found))
            for chunk in _chunks(response):
                file.write(chunk)
                bar.update(len(chunk))
    if found["size"] not in (None, _size(part)):
        raise ConnectionError(f"cut after {_size(part)} of {found['size']} bytes")


def _describe(response: HTTPResponse, url: str, start: int) -> dict[str, Any]:
    """Identity of a file on a server. size is None where unknown, or where a part begins elsewhere."""
    size = response.headers["Content-Length"] or ""
    if start:
        match = re.fullmatch(rf"bytes {start}-\d+/(\d+)", response.headers["Content-Range"] or "")
        size = match[1] if match else ""
    etag, last_modified = response.headers["ETag"], response.headers["Last-Modified"]
    return {"url": url, "etag": etag, "last_modified": last_modified, "size": int(size) if size.isdecimal() else None}


def _chunks(response: HTTPResponse) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(1 << 16)  # whatever has come, so that a cut loses none of it
        except OSError as error:  # a full disk is an OSError too: only here is it the network's
            raise ConnectionError(str(error) or type(error).__name__) from error
        if not chunk:
            return
        yield chunk


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _state(part: Path) -> Path:
    return Path(f"{part}.json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _state(part).unlink(missing_ok=True)


# Unpacking ------------------------------------------------------------------------------------------------------------


_DAMAGES = (
    *(tarfile.TarError, KeyError, EOFError, gzip.BadGzipFile, zlib.error),
    *(zipfile.BadZipFile, RuntimeError),  # encrypted, or packed in a way that zipfile does not know
)


def unpack(archive: str | Path, folder: str | Path) -> None:
    """Unpack a tar, tar.gz or zip archive to `folder`, which appears when all is there.

    A top folder that holds everything becomes `folder` itself. Raises ValueError naming the archive where it is
    damaged or cut, and its member that is absolute, holds `..`, links to such a path, or is a device or a pipe;
    naming the folder where it exists and is not empty.
    """
    archive, folder = Path(archive), Path(folder)
    temporary = folder.with_name(f".{folder.name}.unpacking")
    if temporary.exists():  # of a killed run
        shutil.rmtree(temporary)
    if _taken(folder):
        raise ValueError(f"{folder}: exists already and is left alone; move it away to have {archive} unpacked")
    temporary.mkdir(parents=True)
    try:
        _extract(archive, temporary)
        content = list(temporary.iterdir())
        single = len(content) == 1 and content[0].is_dir() and not content[0].is_symlink()
        (content[0] if single else temporary).rename(folder)
    except _DAMAGES as error:
        advice = "delete it and its .sha256 to get it again"
        raise ValueError(f"{archive}: damaged, cut, or no archive ({error}); {advice}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _extract(archive: Path, folder: Path) -> None:
    with open(archive, "rb") as handle:
        magic = handle.read(4)
    if magic in (b"PK\3\4", b"PK\5\6"):
        with zipfile.ZipFile(archive) as whole:
            for member in whole.infolist():
                kind = stat.S_IFMT(member.external_attr >> 16)  # 0 where the archive does not come from a Unix
                _refuse_unsafe(archive, member.filename, plain=kind in (0, stat.S_IFREG, stat.S_IFDIR))
            for member in track(whole.infolist(), f"unpacking {archive.name}", "member"):
                whole.extract(member, folder)
        return

    def check(member: tarfile.TarInfo, destination: str | Path) -> tarfile.TarInfo:
        progress.update()
        link = member.linkname if member.islnk() or member.issym() else ""
        _refuse_unsafe(archive, member.name, link, plain=member.isfile() or member.isdir() or bool(link))
        return tarfile.data_filter(member, destination)

    mode = "r:gz" if magic.startswith(b"\x1f\x8b") else "r:"
    with tarfile.open(archive, mode) as whole, Progress(f"unpacking {archive.name}", None, "member") as progress:
        whole.extractall(folder, filter=check)
        # tarfile takes a cut between members, or a broken header, for the end: only a block of zeros is the end
        whole.fileobj.seek(whole.offset)
        if whole.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise EOFError("the block that ends it is missing")
        while whole.fileobj.read(1 << 20):  # gzip's checksum comes last
            pass


def _refuse_unsafe(archive: Path, name: str, link: str = "", *, plain: bool) -> None:
    """Stricter than tarfile's data filter and free of its bugs: where nothing holds `..`, links only lead downwards."""
    target = f" -> {link}" if link else ""
    if not plain:
        raise ValueError(f"{archive}: member {name!r} is a device, a pipe or a link; nothing is unpacked")
    for path in map(PureWindowsPath, (name, link)):  # which knows both slashes, and drives
        if path.anchor or ".." in path.parts:
            raise ValueError(f"{archive}: member {name + target!r} would leave the folder; nothing is unpacked")
