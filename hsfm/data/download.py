"""Downloads of published datasets, unpacked as a whole."""

import os
import shutil
import sys
import tarfile
import zlib
from pathlib import Path

import pooch

WATERBIRDS = "https://nlp.stanford.edu/data/dro/waterbird_complete95_forest2water2.tar.gz"
RETRIES = 3


def download(source: str, folder: str | Path) -> None:
    """Download and unpack what `folder` lacks of a dataset, Waterbirds or Dominoes; what is there stays as it is.

    Archives are kept: that of Waterbirds, of which no digest is published, beside the folder; those of MNIST and
    CIFAR-10, checked by MD5, where torchvision keeps them. Raises ValueError, in one line that says what to do, where a
    download fails, an archive cannot be unpacked, or a folder has content but not the dataset's.
    """
    folder = Path(folder)
    if source == "dominoes":
        _download_dominoes(folder)
    elif not (folder / "metadata.csv").exists():
        if folder.is_dir() and any(folder.iterdir()):
            raise ValueError(f"{folder}: holds no metadata.csv; move this folder away to have Waterbirds in its place")
        work = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(work, ignore_errors=True)  # of a killed job
        try:
            _download_waterbirds(folder, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _download_dominoes(folder: Path) -> None:
    from torchvision.datasets import CIFAR10, MNIST

    try:
        for dataset in (MNIST, CIFAR10):
            dataset(folder, download=True)
    except Exception as error:  # torchvision passes on whatever a connection or a file ends with
        reason = " ".join(str(error).split())
        advice = "run again, or put what torchvision.datasets.MNIST and CIFAR10 download there"
        raise ValueError(f"{folder}: {reason}; {advice}") from error


def _download_waterbirds(folder: Path, work: Path) -> None:
    """Have the archive beside `folder`, and its content there. work: a folder for what is not whole yet."""
    archive = folder.with_name(os.path.basename(WATERBIRDS))
    if not archive.exists():
        urls = {archive.name: WATERBIRDS}
        client = pooch.create(work, "", registry=dict.fromkeys(urls), urls=urls, retry_if_failed=RETRIES)
        try:
            fetched = client.fetch(archive.name, downloader=pooch.HTTPDownloader(progressbar=sys.stderr.isatty()))
        except (ValueError, OSError) as error:
            advice = f"run again, or download it elsewhere and put it at {archive}"
            raise ValueError(f"{WATERBIRDS}: {error}; {advice}") from error
        os.chmod(fetched, 0o644)  # pooch leaves it to its owner alone
        os.replace(fetched, archive)
    content = work / "content"
    content.mkdir(parents=True)
    try:
        shutil.unpack_archive(archive, content, filter="data")
    except (tarfile.TarError, shutil.ReadError, EOFError, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{archive}: cannot be unpacked ({reason}); delete it to download it again") from error
    inside = list(content.iterdir())
    os.replace(inside[0] if len(inside) == 1 else content, folder)  # without the top folder that holds everything
