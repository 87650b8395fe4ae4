"""Files that are whole or absent: atomic writes, hashes, and readers that name what is wrong."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # stages that draw images or tables do not pay for importing torch or pyarrow here
    import numpy as np
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq
    from torch import Tensor


@contextmanager
def write_atomically(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends without an error.

    The invariant: `path` is either what it was before or complete.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", suffix=".part", delete=False) as handle:
        temporary = Path(handle.name)
    try:
        yield temporary
        # NamedTemporaryFile is readable by its owner only; a result follows the user's umask like any other file
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        )


def encode(metadata: Mapping[str, Any], schema: "pa.Schema") -> dict[bytes | str, bytes | str]:
    """A schema's own metadata and these, each value as JSON."""
    return {**(schema.metadata or {}), **{key: json.dumps(value) for key, value in metadata.items()}}


def read_parquet(path: str | Path, schema: "pa.Schema") -> tuple["pa.Table", dict[str, Any]]:
    """Read the columns of `schema` and the metadata that `write_parquet` wrote.

    Raises ValueError where the file cannot be read (truncated, say), lacks a column, or holds another type;
    FileNotFoundError where there is none. A fixed-size list of length -1 in `schema` stands for any length.
    """
    with _open_parquet(path, schema) as file:
        return file.read(schema.names).select(schema.names), _metadata(file)


def read_parquet_in_pieces(
    path: str | Path, schema: "pa.Schema", rows: int
) -> tuple[Iterator["pa.RecordBatch"], dict[str, Any]]:
    """The same, at most so many rows at a time; errors of a piece come when it is asked for."""

    def pieces() -> Iterator["pa.RecordBatch"]:
        with _open_parquet(path, schema) as file:
            # a group at a time: the reader that goes through all of them holds on to what it has read
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(rows, row_groups=[group], columns=schema.names):
                    yield batch.select(schema.names)

    with _open_parquet(path, schema) as file:
        return pieces(), _metadata(file)


@contextmanager
def _open_parquet(path: str | Path, schema: "pa.Schema") -> Iterator["pq.ParquetFile"]:
    """The file, found to have the columns of `schema`; what pyarrow cannot read within the block is a ValueError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True) as file:
            found = file.schema_arrow
            for field in schema:
                if field.name not in found.names:
                    raise ValueError(f"{path}: no column {field.name!r}; the columns are {', '.join(found.names)}")
                if not _same_type(found.field(field.name).type, field.type):
                    raise ValueError(
                        f"{path}: column {field.name!r} holds {found.field(field.name).type}, expected {field.type}"
                    )
            yield file
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise _unreadable(path, error) from error


def _metadata(file: "pq.ParquetFile") -> dict[str, Any]:
    return {
        key.decode(): json.loads(value)
        for key, value in (file.schema_arrow.metadata or {}).items()
        if key not in (b"pandas", b"ARROW:schema")
    }


def _unreadable(path: str | Path, error: Exception) -> ValueError:
    return ValueError(f"{path}: not a readable Parquet file, perhaps truncated ({error})")


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
    except (pa.ArrowInvalid, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise _unreadable(path, error) from error
    wanted = [schema.field(name) if name in schema.names else pa.field(name, pa.null()) for name in columns]
    return read_parquet(path, pa.schema(wanted))[0].to_pandas()


def write_array(path: str | Path, array: "np.ndarray") -> None:
    """Write one array in numpy's own format, which can be memory-mapped."""
    import numpy as np

    with write_atomically(path) as temporary, open(temporary, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


def write_safetensors(path: str | Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata so that equal content gives equal bytes.

    safetensors keeps its metadata in a hash map, whose order differs from process to process; the header is
    therefore written again with its keys sorted (eight bytes of length, JSON padded with blanks, then the tensors).
    """
    from safetensors.torch import save

    blob = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata=dict(metadata))
    length = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + length])
    header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
    ordered = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    ordered += b" " * (-len(ordered) % 8)
    with write_atomically(path) as temporary, open(temporary, "wb") as handle:
        handle.write(len(ordered).to_bytes(8, "little"))
        handle.write(ordered)
        handle.write(memoryview(blob)[8 + length :])


def read_safetensors(path: str | Path) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """Tensors by name, and metadata. Raises ValueError where the file is not whole."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file, perhaps truncated ({error})") from error
