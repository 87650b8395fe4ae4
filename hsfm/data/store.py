"""Open and verify the store of decoded images: one memory-mapped array that all stages and runs share.

Two files: the pixels, a numpy array `uint8 [p 3]` in which the images lie one behind the other; and their index, a
Parquet table with a row per image in the order of the image table: image_id, start (first pixel), height, width, and
the CRC-32 of its bytes. The index's metadata hold the key: a hash of the image table's ids and paths, of the rule for
the decode size and of the decoder. A cache whose key or whose bytes are not those is never used: `open_cache` says what
is wrong with it, and how to have it made anew.

While a cache is made, its pixels lie in a file that is already as long as it will be, and a journal says which blocks
of images are done: decoding that was killed goes on there.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from hsfm.core.files import fingerprint, in_bytes, read_parquet, write_parquet
from hsfm.core.progress import Progress, track
from hsfm.data.decode import decoder, read_rgb, read_size
from hsfm.data.decode_size import stored_size
from hsfm.data.pixels import Images, map_array
from hsfm.data.resize import resize

log = logging.getLogger(__name__)

BLOCK = 512  # images between two entries of the journal

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("start", pa.int64()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("crc32", pa.uint32()),
    ]
)


@dataclass(frozen=True)
class CacheFiles:
    """Where a cache lies, and what it has to hold."""

    pixels: Path
    index: Path
    rule: Mapping[str, Any]  # of decode_size

    @staticmethod
    def of(files: Sequence[str | Path], rule: Mapping[str, Any]) -> "CacheFiles | None":
        """That of these two files, pixels and index; None where a dataset has none."""
        return CacheFiles(*map(Path, files), rule) if len(files) else None

    @property
    def folder(self) -> Path:
        return self.pixels.parent


@dataclass(frozen=True)
class PixelCache:
    """An open cache: `images` has one image per row of the image table, in its order."""

    images: Images

    def take(self, rows: pd.DataFrame) -> Images:
        """The images of some rows, whose index are their numbers in the image table."""
        return self.images.take(torch.tensor(rows.index.to_numpy(np.int64)))


def key_of(pieces: Iterable[pd.DataFrame], folder: str | Path, rule: Mapping[str, Any]) -> str:
    """The key of a cache of these images. pieces: all rows of an image table; columns image_id and path."""
    digest = hashlib.sha256(json.dumps([str(folder), dict(rule), decoder()], sort_keys=True).encode())
    for rows in pieces:
        lines = (f"{name}\0{path}\n" for name, path in zip(rows["image_id"], rows["path"], strict=True))
        digest.update("".join(lines).encode())
    return digest.hexdigest()[:32]


# Making one -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """Where every image will lie, before one has been decoded."""

    paths: Sequence[Path]
    start: np.ndarray  # int64 [n], first pixel
    n_pixels: int
    problems: Mapping[int, str]  # by row: why the header cannot be read
    name: str  # changes with whatever the decoded pixels depend on, as far as file names, sizes and times show


def decode_images(rows: pd.DataFrame, folder: str | Path, files: CacheFiles, *, workers: int) -> "Decoded":
    """Decode the image files of table rows into an unfinished cache; goes on with one that was left.

    rows: columns image_id and path (relative to `folder`). workers: threads. Raises ValueError where the disk has too
    little room. What cannot be decoded is in the result's `problem`; its `finish` makes the cache of the others.
    """
    paths = [Path(folder, path) for path in rows["path"]]
    files.folder.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(workers) as pool, _one_thread():
        plan = _plan(paths, key_of([rows], folder, files.rule), files.rule, pool)
        part, journal = (files.folder / f".{files.pixels.stem}-{plan.name}.{end}" for end in ("part", "journal"))
        _reserve(part, plan, files)
        entries = _decode_blocks(plan, files.rule, part, journal, pool)
    columns = ["original_height", "original_width", "height", "width", "crc32", "problem"]
    frame = pd.DataFrame(entries, columns=columns, index=rows.index)
    frame = frame.astype(dict.fromkeys(columns[:4], "Int32") | {"crc32": "Int64", "problem": "string"})
    return Decoded(rows.assign(start=plan.start), frame, folder, files, part, journal)


def _decode_blocks(
    plan: _Plan, rule: Mapping[str, Any], part: Path, journal: Path, pool: ThreadPoolExecutor
) -> list[Sequence]:
    """Decode what the journal does not have yet; the entries of all images."""
    n = len(plan.paths)
    found = _read_journal(journal, n)
    done = sum(map(len, found.values()))
    if done:
        log.info("going on after %d of %d images", done, n)
    offset = np.load(part, mmap_mode="r", allow_pickle=False).offset
    with (
        open(part, "r+b") as target,
        open(journal, "ab") as record,
        Progress("decoding", n, "image", done=done) as bar,
    ):
        record.write(b"\n")  # ends a line that was cut off

        def submit(first: int) -> tuple[int, list[Future]]:
            rows = range(first, min(first + BLOCK, n))
            return first, [pool.submit(_store, row, plan, rule, target.fileno(), offset) for row in rows]

        def finish(first: int, futures: list[Future]) -> None:
            found[first] = []
            for future in futures:
                found[first].append(future.result())
                bar.update()
            record.write(json.dumps([first, found[first]]).encode() + b"\n")
            record.flush()

        in_work: deque[tuple[int, list[Future]]] = deque()
        for first in range(0, n, BLOCK):
            if first not in found:
                in_work.append(submit(first))
            if len(in_work) > 2:  # the threads have work while a block is written down
                finish(*in_work.popleft())
        while in_work:
            finish(*in_work.popleft())
    return [entry for first in sorted(found) for entry in found[first]]


@dataclass(frozen=True)
class Decoded:
    """All images decoded, but not yet under their final name."""

    rows: pd.DataFrame
    found: pd.DataFrame  # per row: original_height, original_width, height, width, crc32; problem where there is none
    folder: str | Path
    files: CacheFiles
    part: Path
    journal: Path

    def finish(self) -> None:
        """Make the cache of the images that could be decoded; the index comes last, and without it there is none."""
        good = self.found["problem"].isna()
        rows, found = self.rows[good], self.found[good]
        self.part.chmod(0o666 & ~_umask())
        self.part.replace(self.files.pixels)
        columns = {"image_id": rows["image_id"], "start": rows["start"]} | {
            name: found[name] for name in ("height", "width", "crc32")
        }
        table = pa.Table.from_pandas(pd.DataFrame(columns), SCHEMA, preserve_index=False)
        metadata = {
            "key": key_of([rows], self.folder, self.files.rule),
            "decode_size": dict(self.files.rule),
            "decoder": decoder(),
            "folder": str(self.folder),
        }
        write_parquet(self.files.index, table, metadata)
        for pattern in ("part", "journal"):  # of this and of earlier tables
            for leftover in self.files.folder.glob(f".{self.files.pixels.stem}-*.{pattern}"):
                leftover.unlink()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _plan(paths: Sequence[Path], key: str, rule: Mapping[str, Any], pool: ThreadPoolExecutor) -> _Plan:
    def look(path: Path) -> tuple[int, tuple, str | None]:
        try:
            height, width = read_size(path)
            status = path.stat()
        except (ValueError, OSError) as error:
            return 0, (), str(error).removeprefix(f"{path}: ")
        # the larger of both ways up: a PNG may say behind its pixels that it lies on its side
        area = max(int(np.prod(stored_size(*size, rule))) for size in ((height, width), (width, height)))
        return area, (height, width, status.st_size, status.st_mtime_ns), None

    seen = list(track(pool.map(look, paths), "reading headers", "image", len(paths)))
    area = np.array([area for area, _, _ in seen], np.int64)
    return _Plan(
        paths=paths,
        start=area.cumsum() - area,
        n_pixels=max(int(area.sum()), 1),  # an empty file cannot be mapped
        problems={row: problem for row, (_, _, problem) in enumerate(seen) if problem is not None},
        name=fingerprint([key, [stamp for _, stamp, _ in seen]]),
    )


def _reserve(part: Path, plan: _Plan, files: CacheFiles) -> None:
    """Make the file as long as it will be, so that a full disk is known now and not in the middle."""
    needed = 3 * plan.n_pixels
    try:
        whole = part.exists() and map_array(part).shape == (plan.n_pixels, 3)
    except ValueError:
        whole = False
    if not whole:
        part.unlink(missing_ok=True)
    # a cache that will be replaced is not counted as free: other jobs may have it open
    held = part.stat().st_blocks * 512 if whole else 0
    free = shutil.disk_usage(files.folder).free
    refusal = ValueError(
        f"{files.pixels}: the decoded images need {in_bytes(needed)}, but {in_bytes(free)} are free there; "
        "make room, or set pixels: files, which decodes images whenever they are needed"
    )
    if needed - held > free:
        raise refusal
    if not whole:
        np.lib.format.open_memmap(part, mode="w+", dtype=np.uint8, shape=(plan.n_pixels, 3)).flush()
    with open(part, "r+b") as handle:
        try:
            os.posix_fallocate(handle.fileno(), 0, part.stat().st_size)
        except OSError as error:
            part.unlink()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise refusal from error
            raise


def _read_journal(journal: Path, n: int) -> dict[int, list]:
    """Finished blocks by their first row; a last line that was cut off is left out."""
    found = {}
    if journal.exists():
        for line in journal.read_bytes().split(b"\n"):
            try:
                first, entries = json.loads(line)
            except ValueError:
                continue
            if len(entries) == min(BLOCK, n - first):
                found[first] = entries
    return found


def _store(row: int, plan: _Plan, rule: Mapping[str, Any], target: int, offset: int) -> tuple:
    """Decode one image into its place; its entry in the journal."""
    path = plan.paths[row]
    if row in plan.problems:
        return None, None, None, None, None, plan.problems[row]
    try:
        image = read_rgb(path)
    except ValueError as error:
        return None, None, None, None, None, str(error).removeprefix(f"{path}: ")
    small = _resized(image, rule)
    data = memoryview(small).cast("B")
    place = offset + 3 * int(plan.start[row])
    while data:  # a write may stop halfway
        written = os.pwrite(target, data, place)
        data, place = data[written:], place + written
    return *image.shape[:2], *small.shape[:2], zlib.crc32(small), None


def _resized(image: np.ndarray, rule: Mapping[str, Any]) -> np.ndarray:
    size = stored_size(*image.shape[:2], rule)
    if image.shape[:2] == size:
        return image
    small = resize(torch.from_numpy(image).permute(2, 0, 1), *size)
    return small.permute(1, 2, 0).contiguous().numpy()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Images are decoded side by side; more threads for each would only be in one another's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


# Using one ------------------------------------------------------------------------------------------------------------


def open_cache(
    pieces: Callable[[], Iterable[pd.DataFrame]],
    folder: str | Path,
    files: CacheFiles,
    *,
    workers: int | None = None,
) -> PixelCache:
    """Open the store of an image table and verify every image of it.

    pieces: gives all rows of the table, in order; columns image_id and path. workers: threads, by default as many as
    torch computes with. Raises ValueError, with the command that has it made anew, for one that is missing, damaged, or
    of other images, another size or another decoder.
    """
    workers = workers or torch.get_num_threads()
    cache, fault = _check(files, key_of(pieces(), folder, files.rule), workers)
    if cache is None:
        raise ValueError(f"{fault}; to have it made anew: rm {files.pixels} {files.index}, and run again")
    return cache


def _check(files: CacheFiles, key: str, workers: int) -> tuple[PixelCache | None, str]:
    """The cache, or why it cannot be used."""
    for path in (files.index, files.pixels):
        if not path.exists():
            return None, f"{path}: not there"
    try:
        table, metadata = read_parquet(files.index, pa.schema(list(SCHEMA)[1:]))
        array = map_array(files.pixels)
    except ValueError as error:
        return None, str(error)
    if metadata.get("key") != key:
        return None, f"{files.index}: is of other images, another decode size or another decoder"
    start, height, width, crc32 = (column.to_numpy() for column in table.columns)
    area = height.astype(np.int64) * width
    if array.ndim != 2 or array.shape[1] != 3 or (len(start) and (start + area).max() > len(array)):
        return None, f"{files.pixels}: holds {list(array.shape)} numbers, too few for its index"

    def damaged(row: int) -> bool:
        return zlib.crc32(array[start[row] : start[row] + area[row]]) != int(crc32[row])

    with ThreadPoolExecutor(workers) as pool, Progress("checking pixels", len(start), "image") as progress:
        bad = 0
        parts = np.array_split(np.arange(len(start)), min(max(100 * workers, 1), max(len(start), 1)))
        for part, found in zip(parts, pool.map(lambda rows: sum(map(damaged, rows.tolist())), parts), strict=True):
            bad += found
            progress.update(len(part))
    if bad:
        return None, f"{files.pixels}: {bad} of {len(start)} images are damaged"
    size = torch.from_numpy(np.stack([height, width], 1).astype(np.int64))
    return PixelCache(Images.of(torch.from_numpy(array), torch.from_numpy(start.copy()), size)), ""
