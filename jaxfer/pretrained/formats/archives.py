"""PyTorch archives read without torch and without running what they hold.

Two containers (torch/serialization.py): since 1.6 a zip of the pickle `NAME/data.pkl` and a member `NAME/data/KEY` for
each storage; before that a stream of pickles (magic number, protocol version, machine facts, the object, the storage
keys), then the element count (int64) and the bytes of each storage.

A pickle is a program. The machine that runs it here knows the few names below, which can only build dicts and
describe tensors, and stops at any other; tensors are cut out of their storages afterwards, within checked bounds.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import io
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxfer.errors import InputError

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
STORAGES = {
    "DoubleStorage": np.dtype("<f8"),
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
    "IntStorage": np.dtype("<i4"),
    "ShortStorage": np.dtype("<i2"),
    "CharStorage": np.dtype("i1"),
    "ByteStorage": np.dtype("u1"),
    "BoolStorage": np.dtype("?"),
}
SAVE_AGAIN = "save it again with torch.save(model.state_dict(), FILE)"


class Refused(InputError):
    """What the file holds is sound but not read here, or is no plain data."""


class Corrupted(InputError):
    """What the file holds is cut short or contradicts itself."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """`count` elements of one dtype, beginning `start` elements into the stored bytes called `key`."""

    key: str
    dtype: np.dtype
    count: int
    start: int = 0


Fetch = Callable[[Storage], np.ndarray]


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A window on a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    fetch: Fetch

    def array(self) -> np.ndarray:
        """The tensor, a read-only view of its storage; `Corrupted` where the window leaves it."""
        where = f"a tensor of shape {self.shape}, strides {self.strides} and offset {self.offset}"
        if len(self.shape) != len(self.strides) or not all(
            type(n) is int and n >= 0 for n in (*self.shape, *self.strides, self.offset)
        ):
            raise Corrupted(where)
        if 0 in self.shape:
            return np.zeros(self.shape, self.storage.dtype)
        last = self.offset + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        if last >= self.storage.count:
            raise Corrupted(f"{where} in a storage of {self.storage.count} elements")
        flat = self.fetch(self.storage)[self.offset :]
        steps = tuple(stride * flat.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(flat, self.shape, steps, writeable=False)


@dataclasses.dataclass(frozen=True)
class _Global:
    """A function that the pickle may call; wrapped, so that it can do nothing else with it."""

    call: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


# The Python machine, not the C one: its opcodes can be replaced, and a forged memo index costs no memory.
class _Unpickler(pickle._Unpickler):
    """Builds dicts, lists, plain values and `LazyTensor`s; any other global is `Refused`."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, fetch: Fetch):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}
        self._globals = {
            "collections.OrderedDict": _Global(collections.OrderedDict),
            "torch.Size": _Global(tuple),
            "torch._utils._rebuild_tensor": _Global(functools.partial(_tensor, fetch)),
            "torch._utils._rebuild_tensor_v2": _Global(functools.partial(_tensor, fetch)),
            "torch._utils._rebuild_parameter": _Global(lambda data, *_: data),
            **{f"torch.{name}": name for name in STORAGES},
        }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in self._globals:
            raise Refused(f"a pickle with code in it, refused: global {full}; {SAVE_AGAIN}")
        return self._globals[full]

    def get_extension(self, code: int) -> None:
        raise Refused(f"a pickle with code in it, refused: extension {code}; {SAVE_AGAIN}")

    def persistent_load(self, pid: Any) -> Storage:
        kind, name, key, _, count, *view = pid
        if kind != "storage" or name not in STORAGES or type(count) is not int or count < 0:
            raise Corrupted(f"a storage record {kind!r} that torch does not write")
        whole = Storage(str(key), STORAGES[name], count)
        if self.storages.setdefault(whole.key, whole) != whole:
            raise Corrupted(f"storage {key!r} described in two ways")
        if not view or view[0] is None:  # old files may keep one storage for several views of it
            return whole
        _, start, size = view[0]
        if not (type(start) is int and type(size) is int and start >= 0 and size >= 0 and start + size <= count):
            raise Corrupted(f"a view that leaves storage {key!r}")
        return dataclasses.replace(whole, count=size, start=start)

    def _build(self) -> None:
        """A state dict carries `_metadata`, which nothing here needs; no other object has a state to set."""
        self.stack.pop()
        if not isinstance(self.stack[-1], collections.OrderedDict):
            raise Refused(f"a pickle with code in it, refused: it sets attributes; {SAVE_AGAIN}")

    dispatch[pickle.BUILD[0]] = _build


def _tensor(fetch: Fetch, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> LazyTensor:
    if not isinstance(storage, Storage):
        raise Corrupted("a tensor without a storage")
    return LazyTensor(storage, offset, tuple(shape), tuple(strides), fetch)


def load(file: BinaryIO) -> Any:
    """What a PyTorch archive holds, each tensor as a `LazyTensor` that reads from `file` while it is open.

    Raises:
      Refused: the pickle names what no state dict holds, or the storages are big-endian.
      Corrupted: the file is no archive, is cut short or contradicts itself. Neither message names the file.
    """
    file.seek(0)
    is_zip = file.read(2) == b"PK"
    file.seek(0)
    with plain_errors():
        return _load_zip(file) if is_zip else _load_stream(file)


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Makes every error `Refused` or `Corrupted`: pickle and zip machines fed with noise raise nearly anything."""
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
        # torch stores its members plainly; a few compressed kilobytes could unfold to any size
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

    return _Unpickler(io.BytesIO(member("data.pkl")), fetch).load()


def _load_stream(file: BinaryIO) -> Any:
    begins: dict[str, int] = {}

    @functools.cache
    def fetch(storage: Storage) -> np.ndarray:
        size = storage.dtype.itemsize
        file.seek(begins[storage.key] + storage.start * size)
        return np.frombuffer(file.read(storage.count * size), storage.dtype)

    def plain() -> Any:
        return _Unpickler(file, fetch).load()

    if plain() != MAGIC_NUMBER or plain() != PROTOCOL_VERSION:
        raise Corrupted("a pickle that torch.save did not write")
    _check_order(plain()["little_endian"])
    unpickler = _Unpickler(file, fetch)
    content, keys = unpickler.load(), [str(key) for key in plain()]
    if set(keys) != set(unpickler.storages):
        raise Corrupted("a list of storages that is not that of the tensors")
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
