"""Atomic writes, hashes, and readers whose errors name the file and the fault."""

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
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

    The invariant: `path` is either what it was before or complete. Raises OSError whose `filename` is `path` where the
    disk is full or read-only.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as handle:
            os.fsync(handle.fileno())
        temporary.replace(path)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise
        raise OSError(error.errno, f"cannot be written ({os.strerror(error.errno).lower()})", str(path)) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Short hash of a JSON-like value, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


# Parquet --------------------------------------------------------------------------------------------------------------


def write_parquet(path: str | Path, table: "pa.Table", metadata: Mapping[str, Any], **options: Any) -> None:
    """Write a table with `metadata` in its schema, each value as JSON. options: of `pyarrow.parquet.write_table`."""
    import pyarrow.parquet as pq

    table = table.replace_schema_metadata(encode(metadata, table.schema))
    with write_atomically(path) as temporary:
        pq.write_table(table, temporary, write_page_checksum=True, **options)


def encode(metadata: Mapping[str, Any], schema: "pa.Schema") -> dict[bytes, bytes]:
    """A schema's own metadata and these, each value as JSON."""
    return {**(schema.metadata or {}), **{key.encode(): json.dumps(value).encode() for key, value in metadata.items()}}


def decode(schema: "pa.Schema") -> dict[str, Any]:
    """The metadata that `encode` wrote."""
    ours = {key: value for key, value in (schema.metadata or {}).items() if key != b"pandas"}
    return {key.decode(): json.loads(value) for key, value in ours.items()}


def read_parquet(path: str | Path, schema: "pa.Schema") -> tuple["pa.Table", dict[str, Any]]:
    """Read the columns of `schema` and the metadata that `write_parquet` wrote; errors as `open_parquet`."""
    with open_parquet(path, schema) as file:
        return file.read(schema.names).select(schema.names), decode(file.schema_arrow)


@contextmanager
def open_parquet(path: str | Path, schema: "pa.Schema | None" = None) -> Iterator["pq.ParquetFile"]:
    """Open a Parquet file that has the columns of `schema`.

    Raises ValueError where pyarrow cannot read it, here or within the block (truncated or damaged, say), where it lacks
    a column or holds another type; FileNotFoundError where there is none. A list of a fixed size is of its list type.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            columns = file.schema_arrow
            for field in schema or ():
                if field.name not in columns.names:
                    raise ValueError(f"{path}: no column {field.name!r}; the columns are {', '.join(columns.names)}")
                found = columns.field(field.name).type
                any_length = pa.types.is_fixed_size_list(found) and pa.types.is_list(field.type)
                if found != field.type and not (any_length and found.value_type == field.type.value_type):
                    raise ValueError(f"{path}: column {field.name!r} holds {found}, expected {field.type}")
            yield file
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable Parquet file, perhaps truncated or damaged ({error})") from error


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
    with open_parquet(path) as file:
        return file.read(list(columns)).select(columns).to_pandas()


def read_described(path: str | Path, columns: Sequence[str]) -> tuple["pd.DataFrame", dict[str, Any]]:
    """A data frame that `write_frame` wrote, with its metadata; ValueError where one of some columns is missing."""
    with open_parquet(path) as file:
        frame, metadata = file.read().to_pandas(), decode(file.schema_arrow)
    for column in columns:
        if column not in frame:
            raise ValueError(f"{path}: no column {column!r}; the columns are {', '.join(frame.columns)}")
    return frame, metadata


def read_frames(paths: Iterable[str | Path], columns: Sequence[str]) -> "pd.DataFrame":
    """Several data frames one after the other, with the column `file`, where a row comes from."""
    import pandas as pd

    return pd.concat([read_frame(path, columns).assign(file=str(path)) for path in paths], ignore_index=True)


# Arrays and tensors ---------------------------------------------------------------------------------------------------


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
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file, perhaps truncated ({error})") from error
