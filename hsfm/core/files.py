"""Atomic writes, hashes, and readers whose errors name the file and the fault.

What is written carries checksums, and readers compare them: a disk that returns other bytes than were written is
noticed here rather than in a result.
"""

import errno
import fcntl
import functools
import hashlib
import json
import logging
import os
import platform
import re
import shutil
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # stages that draw images or tables do not pay for importing torch or pyarrow here
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
    from torch import Tensor


log = logging.getLogger(__name__)

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_HERE = f"{zlib.crc32(platform.node().encode()):08x}"  # this machine
_REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends without an error.

    The invariant: `path` is either what it was before or complete. What killed processes have left of their writes in
    the same folder is removed. Raises OSError whose `filename` is `path` where the disk is full or takes no writes.
    """
    path = Path(path)
    with _naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        with _temporary(path) as temporary:
            yield temporary
            # NamedTemporaryFile is readable by its owner only; a result follows the user's umask like any other file
            umask = os.umask(0)
            os.umask(umask)
            temporary.chmod(0o666 & ~umask)
            # or a machine that loses power could come back with the new name and without the bytes
            with open(temporary, "rb") as handle:
                os.fsync(handle.fileno())
            temporary.replace(path)


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """An empty file beside `path`, locked while the block runs: a lock goes with its process, however it ends."""
    while True:
        with NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", suffix=f".{_HERE}.part", delete=False
        ) as handle:
            temporary = Path(handle.name)
            with suppress(OSError):  # some clusters' file systems have no locks; there nothing is swept
                fcntl.flock(handle, fcntl.LOCK_EX)
            if not temporary.exists():  # swept before it was locked
                continue
            try:
                yield temporary
            finally:
                temporary.unlink(missing_ok=True)
            return


@functools.cache  # once per process: a folder of shards is written to thousands of times
def _sweep(folder: Path) -> None:
    """Remove the temporary files of processes that have died: those that nobody holds a lock on.

    Of other machines only what is a day old: some disks that machines share do not share locks.
    """
    for leftover in folder.glob(".*.part"):
        found = re.search(r"\.[a-z0-9_]{8}\.([0-9a-f]{8})\.part$", leftover.name)
        if found is None:
            continue
        with suppress(OSError), open(leftover, "r+b") as handle:
            if found[1] == _HERE or time.time() - os.fstat(handle.fileno()).st_mtime > 86400:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                leftover.unlink()


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """An error of the disk names the file that is written, and what to do; libraries leave out one or both."""
    try:
        yield
    except OSError as error:
        here = [None, *map(str, path.parents)]  # what is read meanwhile has errors of its own
        if error.filename not in here and os.path.dirname(os.fsdecode(error.filename)) not in here:
            raise
        if error.errno in _NO_ROOM:
            free = in_bytes(shutil.disk_usage(next(folder for folder in path.parents if folder.exists())).free)
            text = f"the disk became full while this was written ({free} free without it); make room and run again"
        elif error.errno in _REFUSED:
            text = f"cannot be written there ({os.strerror(error.errno).lower()})"
        else:
            raise
        raise OSError(error.errno, text, str(path)) from error


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Short hash of a JSON-like value, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def in_bytes(n: int) -> str:
    """A number of bytes as people write it: 23.6 GB."""
    power = next(power for power in range(5) if n < 1000 ** (power + 1) or power == 4)
    return f"{n} B" if power == 0 else f"{n / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"


def write_parquet(
    path: str | Path,
    table: "pa.Table",
    metadata: Mapping[str, Any],
    *,
    row_group_size: int | None = None,
    compression: str = "snappy",
) -> None:
    """Write a table with `metadata` in its schema, each value as JSON. row_group_size: rows, by default pyarrow's."""
    import pyarrow.parquet as pq

    with write_atomically(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata(encode(metadata, table.schema)),
            temporary,
            row_group_size=row_group_size,
            compression=compression,
            write_page_checksum=True,
        )


_CRC32 = "crc32"


def encode(metadata: Mapping[str, Any], schema: "pa.Schema") -> dict[bytes, bytes]:
    """A schema's own metadata and these, each value as JSON, with a CRC-32, which Parquet has for the data alone."""
    texts = {**(schema.metadata or {}), **{key.encode(): json.dumps(value).encode() for key, value in metadata.items()}}
    return {**texts, _CRC32.encode(): str(_crc32_of(texts)).encode()}


def _crc32_of(texts: Mapping[bytes, bytes]) -> int:
    ours = {key: value for key, value in texts.items() if key not in (b"ARROW:schema", _CRC32.encode())}
    return zlib.crc32(b"\0".join(part for item in sorted(ours.items()) for part in item))


def read_parquet(path: str | Path, schema: "pa.Schema") -> tuple["pa.Table", dict[str, Any]]:
    """Read the columns of `schema` and the metadata that `write_parquet` wrote.

    Raises ValueError where the file cannot be read (truncated or damaged, say), lacks a column, or holds another type;
    FileNotFoundError where there is none. A fixed-size list of length -1 in `schema` stands for any length.
    """
    with _open_parquet(path, schema) as file:
        metadata = _metadata(file, path)
        table = file.read(schema.names).select(schema.names)
        return table.replace_schema_metadata(file.schema_arrow.metadata), metadata  # a Parquet file has them twice


def read_parquet_in_pieces(
    path: str | Path, schema: "pa.Schema", rows: int
) -> tuple[Iterator["pa.RecordBatch"], dict[str, Any]]:
    """The same, at most so many rows at a time; errors of a piece come when it is asked for."""

    def pieces() -> Iterator["pa.RecordBatch"]:
        with _open_parquet(path, schema) as file:
            # a group at a time: the reader that goes through all of them holds on to what it has read
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(rows, row_groups=[group], columns=schema.names):
                    yield batch.select(schema.names).replace_schema_metadata(file.schema_arrow.metadata)

    with _open_parquet(path, schema) as file:
        return pieces(), _metadata(file, path)


@contextmanager
def _open_parquet(path: str | Path, schema: "pa.Schema") -> Iterator["pq.ParquetFile"]:
    """The file, found to have the columns of `schema`; what pyarrow cannot read within the block is a ValueError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            found = file.schema_arrow
            for field in schema:
                if field.name not in found.names:
                    raise ValueError(f"{path}: no column {field.name!r}; the columns are {', '.join(found.names)}")
                if not _same_type(found.field(field.name).type, field.type):
                    raise ValueError(
                        f"{path}: column {field.name!r} holds {found.field(field.name).type}, expected {field.type}"
                    )
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise _unreadable(path, error) from error


def _metadata(file: "pq.ParquetFile", path: str | Path) -> dict[str, Any]:
    texts = file.schema_arrow.metadata or {}
    expected = texts.get(_CRC32.encode())  # none in a file of another program
    if expected is not None and expected != str(_crc32_of(texts)).encode():
        raise ValueError(f"{path}: damaged; its metadata are not those that were written")
    ours = {key: value for key, value in texts.items() if key not in (b"pandas", b"ARROW:schema", _CRC32.encode())}
    try:
        return {key.decode(): json.loads(value) for key, value in ours.items()}
    except ValueError as error:
        raise ValueError(f"{path}: its metadata are not JSON ({error}); it is damaged, or another program's") from error


def _unreadable(path: str | Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: not a readable Parquet file, perhaps truncated or damaged ({error})")


def _same_type(found: "pa.DataType", expected: "pa.DataType") -> bool:
    import pyarrow as pa

    if pa.types.is_list(expected) and pa.types.is_fixed_size_list(found):
        return found.value_type == expected.value_type
    return found == expected


def require(metadata: Mapping[str, Any], keys: Iterable[str], path: str | Path) -> None:
    """Raise ValueError naming the first of `keys` that a file's metadata lacks."""
    for key in keys:
        if key not in metadata:
            raise ValueError(f"{path}: metadata lacks {key!r}; it holds {', '.join(sorted(metadata)) or 'nothing'}")


def write_frame(path: str | Path, frame: "pd.DataFrame", metadata: Mapping[str, Any] | None = None) -> None:
    """Write a data frame without its index."""
    import pyarrow as pa

    write_parquet(path, pa.Table.from_pandas(frame, preserve_index=False), metadata or {})


def read_frame(path: str | Path, columns: Sequence[str]) -> "pd.DataFrame":
    """Read these columns of a data frame. Raises ValueError where one is missing or the file is not whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise _unreadable(path, error) from error
    wanted = [schema.field(name) if name in schema.names else pa.field(name, pa.null()) for name in columns]
    return read_parquet(path, pa.schema(wanted))[0].to_pandas()


def read_frames(paths: Iterable[str | Path], columns: Sequence[str]) -> "pd.DataFrame":
    """Several data frames one after the other, with the column `file`, where a row comes from."""
    import pandas as pd

    return pd.concat([read_frame(path, columns).assign(file=str(path)) for path in paths], ignore_index=True)


def write_array(path: str | Path, array: "np.ndarray") -> None:
    """Write one array in numpy's own format, which can be memory-mapped."""
    import numpy as np

    array = np.ascontiguousarray(array)
    with write_atomically(path) as temporary, open(temporary, "wb") as handle:
        # as np.save does, whose errors of a full disk do not say so
        np.lib.format.write_array_header_1_0(handle, np.lib.format.header_data_from_array_1_0(array))
        handle.write(array)


def write_safetensors(path: str | Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata so that equal content gives equal bytes.

    safetensors keeps its metadata in a hash map, whose order differs from process to process; the header is
    therefore written again with its keys sorted (eight bytes of length, JSON padded with blanks, then the tensors). It
    gets a CRC-32 of itself and the tensors, which the format lacks.
    """
    from safetensors.torch import save

    blob = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata=dict(metadata))
    length = int.from_bytes(blob[:8], "little")
    header, data = json.loads(blob[8 : 8 + length]), memoryview(blob)[8 + length :]
    texts = dict(sorted(header.get("__metadata__", {}).items()))
    header["__metadata__"] = texts
    header["__metadata__"] = {_CRC32: str(zlib.crc32(data, zlib.crc32(_as_json(header)))), **texts}
    ordered = _as_json(header)
    ordered += b" " * (-len(ordered) % 8)
    with write_atomically(path) as temporary, open(temporary, "wb") as handle:
        handle.write(len(ordered).to_bytes(8, "little"))
        handle.write(ordered)
        handle.write(data)


def read_leftover(path: str | Path) -> tuple[dict[str, "Tensor"], dict[str, str]] | None:
    """The tensors and metadata that a killed job left to go on from; None where there are none.

    A file that is damaged, by a machine that lost power, say, is removed with a warning: its job begins anew.
    """
    try:
        return read_safetensors(path)
    except FileNotFoundError:
        return None
    except ValueError as error:
        log.warning("%s; the job begins anew", error)
        Path(path).unlink(missing_ok=True)
        return None


def _as_json(header: Mapping[str, Any]) -> bytes:
    return json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()


def read_safetensors(path: str | Path) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Tensors by name, and metadata. Raises ValueError where the file is not whole, or not what was written.

    A file of another program has no checksum to compare with.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            expected = metadata.pop(_CRC32, None)
            if expected is not None and expected != _crc32(path):
                raise ValueError(f"{path}: damaged; its bytes are not those that were written")
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file, perhaps truncated ({error})") from error


def _crc32(path: str | Path) -> str:
    """Of a safetensors file without its checksum, as `write_safetensors` counts it."""
    with open(path, "rb") as handle:
        header = json.loads(handle.read(int.from_bytes(handle.read(8), "little")))
        del header["__metadata__"][_CRC32]
        found = zlib.crc32(_as_json(header))
        while piece := handle.read(1 << 20):
            found = zlib.crc32(piece, found)
    return str(found)
