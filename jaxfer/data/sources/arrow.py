"""Rows of .parquet and .arrow files, with Hugging Face's conventions: shards, names of classes, images as bytes.

A split is one file, shards such as `train-00000-of-00002.parquet` (named by the first), or the folder that
`datasets.Dataset.save_to_disk` wrote.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from jaxfer.data import index
from jaxfer.data.encodings.pixels import opened, pixels, verify
from jaxfer.data.lookup import SHARDED, fingerprint, parts
from jaxfer.errors import InputError

SUFFIXES = SHARDED
BATCH = 1_000  # rows that are turned into Python objects at a time
END = 4096  # bytes of each end of an image that its key has
BYTES = "bytes"  # the field of Hugging Face's image struct that has the file; the other is `path`


def reads(file: Path) -> bool:
    """Whether this is a file, or a folder, of such rows."""
    return file.is_dir() or file.suffix.lower() in SUFFIXES


def records(file: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """(row from 1, {column: field}) of a split; class indices by name where the file has names, images left out."""
    table = _table(file, columns=[name for name, kind in schema(file).items() if not _is_image(kind)])
    named, row = _named(table.schema), 0
    for batch in table.to_batches(max_chunksize=BATCH):
        for record in batch.to_pylist():
            row += 1
            yield row, record | {name: name_of(record[name]) for name, name_of in named.items()}


def schema(file: Path) -> dict[str, Any]:
    """{column: its Arrow type} of a split."""
    first, arrow = parts(file)[0], _pyarrow()
    with _readable(first):
        found = arrow.parquet.read_schema(first) if first.suffix.lower() == ".parquet" else _stream(first).schema
    return {field.name: field.type for field in found}


def image_column(file: Path, name: str) -> str:
    """`name` if it holds images as bytes in this split, or else the only column that does; empty if none does."""
    kinds = schema(file)
    held = [column for column, kind in kinds.items() if _is_image(kind)]
    return name if name in held else held[0] if len(held) == 1 and name not in kinds else ""


def headers(file: Path, name: str) -> list[int | str]:
    """The EXIF orientation of every image in a column, as `verify` has it, or what is wrong with it: one for each row.

    What was read is kept by the index: no row is opened again while its file stays.
    """

    def read(part: Path) -> list[int | str]:
        return [_header(_content_of(value.as_py())) for value in _part(part, [name]).column(name)]

    return [found for part in parts(file) for found in index.fact(part.parent, part.name, f"images {name}", read)]


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """A column of images as bytes. An .arrow file is mapped into memory, a .parquet file is held there undecoded.

    Attributes:
      file: of the split.
      name: the column.
      rows: int64 [n], rows of it.
      turned: how many are turned upright, as their EXIF orientation says; None leaves all as they are stored.
    """

    file: Path
    name: str
    rows: np.ndarray
    turned: int | None = None
    kind: ClassVar[str] = "image"

    def __len__(self) -> int:
        return len(self.rows)

    def content(self, row: int) -> bytes:
        """The image file of a row."""
        return _content_of(self._column[int(self.rows[row])].as_py())

    def where(self, row: int) -> str:
        """The name of a row in errors."""
        return f"{self.name!r} of row {int(self.rows[row]) + 1} in {str(self.file)!r}"

    def picture(self, row: int) -> Image.Image:
        return opened(self.content(row), self.where(row), upright=self.turned is not None)

    def __getitem__(self, row: int) -> np.ndarray:
        return pixels(self.picture(row))

    @functools.cached_property
    def sha256(self) -> str:
        """sha256 (hex) of the files, the column and the rows."""
        turned = ["upright"] if self.turned else []
        content = fingerprint([self.name, self.rows, *turned, *(_content(part) for part in parts(self.file))])
        index.keep()
        return content

    key_bytes: ClassVar[int] = 2 * END

    def key(self, row: int) -> Hashable:
        """A key that is equal for images whose encoded bytes have the same length, start and end."""
        value = self._column[int(self.rows[row])]
        value = value[BYTES] if _pyarrow().types.is_struct(value.type) else value
        whole = memoryview(value.as_buffer() if value.is_valid else b"")
        return len(whole), bytes(whole[:END]), bytes(whole[-END:])

    def exact(self, row: int) -> Hashable:
        """A key that is equal for images of the same encoded bytes."""
        return hashlib.blake2b(self.content(row), digest_size=16).digest()

    @functools.cached_property
    def _column(self) -> Any:
        return _table(self.file, columns=[self.name]).column(self.name)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_column"}


def _pyarrow() -> Any:
    """The package `pyarrow`, an extra; `InputError` where it is not installed."""
    try:
        import pyarrow  # imported late: only these files need it
        import pyarrow.parquet
    except ImportError as error:
        fix = "pip install 'jaxfer[arrow]'"
        raise InputError(f".parquet and .arrow files need the package pyarrow ({error}); {fix}") from None
    return pyarrow


@contextlib.contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # Arrow's own errors are ValueErrors
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"expected a readable table, found {str(file)!r} ({reason}); replace or remove it") from None


def _stream(file: Path) -> Any:
    """A reader of an .arrow file: the stream that `datasets` writes, or Arrow's file format (Feather)."""
    arrow = _pyarrow()
    source = arrow.memory_map(str(file))
    try:
        return arrow.ipc.open_stream(source)
    except arrow.ArrowInvalid:
        return arrow.ipc.open_file(source)


def _table(file: Path, columns: list[str]) -> Any:
    """The columns of all parts of a split, one after the other."""
    tables = [_part(part, columns) for part in parts(file)]
    with _readable(file):
        return _pyarrow().concat_tables(tables)


def _part(file: Path, columns: list[str]) -> Any:
    """The columns of one file."""
    with _readable(file):
        if file.suffix.lower() == ".parquet":
            return _pyarrow().parquet.read_table(file, columns=columns, partitioning=None)
        return _stream(file).read_all().select(columns)


def _content_of(value: Any) -> bytes:
    """The image file in a field: the bytes, or a struct with them; empty where there is none."""
    return (value.get(BYTES) if isinstance(value, dict) else value) or b""


def _header(content: bytes) -> int | str:
    """`verify`'s, or the start of its message."""
    try:
        return verify(content, "bytes")
    except InputError as error:
        return str(error).rpartition("; ")[0]


def _is_image(kind: Any) -> bool:
    types = _pyarrow().types
    if types.is_struct(kind):
        return any(field.name == BYTES and _is_image(field.type) for field in kind)
    return types.is_binary(kind) or types.is_large_binary(kind)


def _named(found: Any) -> dict[str, Callable[[Any], Any]]:
    """{column: index or list of indices -> names} of the columns that Hugging Face's metadata call `ClassLabel`."""
    try:
        features = json.loads((found.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    named = {}
    for column in found.names:
        feature = features.get(column)
        inner = feature.get("feature", feature) if isinstance(feature, dict) else feature
        if isinstance(inner, dict) and inner.get("_type") == "ClassLabel" and isinstance(inner.get("names"), list):
            named[column] = functools.partial(_name, names=inner["names"])
    return named


def _name(value: Any, names: list[str]) -> Any:
    if isinstance(value, list):
        return [_name(one, names) for one in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value  # -1: none is known


def _content(file: Path) -> str:
    """A digest (hex) of a file."""

    def read(path: Path) -> str:
        with open(path, "rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()

    return index.fact(file.parent, file.name, "content", read)
