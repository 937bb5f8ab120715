"""Read PyTorch archives without torch and without executing their pickles.

Two containers (torch/serialization.py): since 1.6 a zip of the pickle `NAME/data.pkl` and a member `NAME/data/KEY` for
each storage; before that a stream of pickles (magic number, protocol version, machine facts, the object, the storage
keys), then the element count (int64) and the bytes of each storage. `unpickling` reads the pickles.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np

from jaxfer.errors import InputError
from jaxfer.pretrained.formats.unpickling import SAVE_AGAIN, Corrupted, LazyTensor, Refused, Skipped, Storage, Unpickler

__all__ = ["SAVE_AGAIN", "Corrupted", "LazyTensor", "Refused", "Skipped", "Unpickler", "load", "plain_errors"]

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001


def load(file: BinaryIO) -> Any:
    """Loads a PyTorch archive; each tensor is a `LazyTensor` that reads from `file` while it is open.

    Raises:
      Refused: the pickle holds code or unsupported tensors, or the storages are big-endian.
      Corrupted: the file is not an archive, is truncated or inconsistent. Neither message names the file.
    """
    file.seek(0)
    is_zip = file.read(2) == b"PK"
    file.seek(0)
    with plain_errors():
        return _load_zip(file) if is_zip else _load_stream(file)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Turns every error into `Refused` or `Corrupted`: on damaged input, pickle and zipfile raise almost anything."""
    try:
        yield
    except InputError:
        raise
    except EOFError:
        raise Corrupted("it ends too early") from None
    except Exception as error:
        raise Corrupted(f"{type(error).__name__}: {(str(error).splitlines() or ['no more is known'])[0]}") from error


def _load_zip(file: BinaryIO) -> Any:
    archive = zipfile.ZipFile(file)
    names = archive.namelist()
    roots = [name.removesuffix("data.pkl") for name in names if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise Corrupted("a zip file without the data.pkl that torch.save writes")
    root = roots[0]
    if any(name.startswith(f"{root}code/") for name in names):
        raise Refused(f"a TorchScript program, refused: it is code; {SAVE_AGAIN}")

    def member(name: str) -> bytes:
        if f"{root}{name}" not in names:
            raise Corrupted(f"no member {name!r} in the zip file")
        # torch stores members uncompressed; a few compressed kilobytes could expand to any size
        if archive.getinfo(f"{root}{name}").compress_type != zipfile.ZIP_STORED:
            raise Refused(f"a compressed member {name!r}, which torch does not write; {SAVE_AGAIN}")
        return archive.read(f"{root}{name}")  # checks the CRC

    if f"{root}byteorder" in names:
        _check_order(member("byteorder").strip() == b"little")

    @functools.cache
    def fetch(storage: Storage) -> np.ndarray:
        data, size = member(f"data/{storage.key}"), storage.count * storage.dtype.itemsize
        if len(data) != size:
            raise Corrupted(f"storage {storage.key!r} has {len(data)} bytes, expected {size}")
        return np.frombuffer(data, storage.dtype)

    return Unpickler(io.BytesIO(member("data.pkl")), fetch).load()


def _load_stream(file: BinaryIO) -> Any:
    begins: dict[str, int] = {}

    @functools.cache
    def fetch(storage: Storage) -> np.ndarray:
        size = storage.dtype.itemsize
        file.seek(begins[storage.key] + storage.start * size)
        return np.frombuffer(file.read(storage.count * size), storage.dtype)

    def plain() -> Any:
        return Unpickler(file, fetch).load()

    if plain() != MAGIC_NUMBER or plain() != PROTOCOL_VERSION:
        raise Corrupted("a pickle that torch.save did not write")
    _check_order(plain()["little_endian"])
    unpickler = Unpickler(file, fetch)
    content, keys = unpickler.load(), [str(key) for key in plain()]
    if set(keys) != set(unpickler.storages):
        raise Corrupted("a list of storages that does not match the tensors")
    begin = file.tell()
    length = file.seek(0, io.SEEK_END)
    for key in keys:
        storage = unpickler.storages[key]
        file.seek(begin)
        count, begins[key] = file.read(8), begin + 8
        begin += 8 + storage.count * storage.dtype.itemsize
        if begin > length:
            raise Corrupted(f"cut short: storage {key!r} ends at byte {begin} of {length}")
        if struct.unpack("<q", count) != (storage.count,):
            raise Corrupted(f"storage {key!r} has {struct.unpack('<q', count)[0]} elements, expected {storage.count}")
    return content


def _check_order(little: bool) -> None:
    if not little:
        raise Refused(f"big-endian storages; {SAVE_AGAIN} on a little-endian machine")
