"""A restricted unpickler for PyTorch files: it builds plain data and describes tensors, and nothing else.

A pickle is a program. This unpickler calls only a few listed functions. Objects of other classes beside the weights
(an `argparse.Namespace`, a NumPy scalar, a callback's state) are neither imported nor built: each becomes a `Skipped`.
A name of a function rather than a data class is refused. Work is bounded by the size of the pickle. Tensors are sliced
from their storages afterwards, with bounds checks.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import pickle
import re
import reprlib
import sys
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxfer.errors import InputError

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

# Names of modules in pickles of protocol 2, which torch.save writes.
MODULES = {"__builtin__": "builtins", "copy_reg": "copyreg"}
# Data classes of the standard library and their constructors; any other of its names in a pickle is code.
DATA = {
    *("argparse.Namespace", "types.SimpleNamespace", "collections.Counter", "collections.deque", "functools.partial"),
    *("datetime.date", "datetime.datetime", "datetime.timedelta", "datetime.timezone", "decimal.Decimal"),
    *("pathlib.Path", "pathlib.PurePath", "pathlib.PosixPath", "pathlib.WindowsPath", "pathlib.PurePosixPath"),
    *("pathlib._local.PosixPath", "pathlib._local.WindowsPath"),
    *("fractions.Fraction", "uuid.UUID", "random.Random", "_codecs.encode"),
    *(f"builtins.{kind}" for kind in ("set", "frozenset", "complex", "bytearray", "slice", "range", "object")),
    *(f"builtins.{kind}" for kind in ("bool", "int", "float", "str", "bytes", "list", "tuple", "dict", "type")),
}
TORCH_DATA = r"torch\.(device|bool|b?float\d+|u?int\d+|complex\d+|float8_\w+)"  # besides its classes
# Bounds on the work that a few bytes can request.
KEY_NODES, DIMENSIONS, PAIRS = 100, 64, 10_000_000
_REPR = reprlib.Repr()
_REPR.maxlevel = 2
_shown = _REPR.repr  # always shorter than a line


class Refused(InputError):
    """The file is valid, but its content is unsupported or not plain data."""


class Corrupted(InputError):
    """The file is truncated or inconsistent."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """`count` elements of one dtype, starting at element `start` of the stored bytes named `key`."""

    key: str
    dtype: np.dtype
    count: int
    start: int = 0


Fetch = Callable[[Storage], np.ndarray]


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A view of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    fetch: Fetch

    def array(self) -> np.ndarray:
        """The tensor as a read-only view of its storage; raises `Corrupted` if the view exceeds it."""
        shown = [_shown(facts) for facts in (self.shape, self.strides, self.offset)]
        where = f"a tensor of shape {shown[0]}, strides {shown[1]} and offset {shown[2]}"
        if len(self.shape) != len(self.strides) or not all(
            type(n) is int and 0 <= n < 2**63 for n in (*self.shape, *self.strides, self.offset)
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


@dataclasses.dataclass(frozen=True, eq=False)
class Skipped:
    """A placeholder for a class in a pickle and for its objects; the class is neither imported nor called.

    Attributes:
      name: the class with its module.
    """

    name: str

    def __call__(self, *_: Any) -> Skipped:
        return self


@dataclasses.dataclass(frozen=True)
class _Global:
    """A function that the pickle may call; the wrapper prevents any other use."""

    call: Callable[..., Any]

    def __call__(self, *args: Any) -> Any:
        return self.call(*args)


# The Python implementation, not C: its opcodes can be replaced, and a forged memo index allocates no memory.
class Unpickler(pickle._Unpickler):
    """Builds plain data and `LazyTensor`s; objects of other classes are `Skipped`, code is `Refused`."""

    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: BinaryIO, fetch: Fetch):
        super().__init__(file, encoding="utf-8")
        self.storages: dict[str, Storage] = {}
        self._pairs = 0
        self._globals = {
            "collections.OrderedDict": _Global(self._ordered),
            "collections.defaultdict": _Global(lambda *_: {}),
            "copyreg._reconstructor": _Global(lambda kind, *_: kind),
            "torch.Size": _Global(_dimensions),
            "torch._utils._rebuild_tensor": _Global(functools.partial(_tensor, fetch)),
            "torch._utils._rebuild_tensor_v2": _Global(functools.partial(_tensor, fetch)),
            "torch._utils._rebuild_parameter": _Global(lambda data, *_: data),
            "torch._utils._rebuild_parameter_with_state": _Global(lambda data, *_: data),
            "torch._tensor._rebuild_from_type_v2": _Global(_of_a_subclass),
            **{f"torch.{name}": name for name in STORAGES},
        }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{MODULES.get(module, module)}.{name}"
        if full in self._globals:
            return self._globals[full]
        if _is_code(full):
            raise Refused(f"a pickle with code in it, refused: global {full}; {SAVE_AGAIN}")
        return Skipped(full)

    def get_extension(self, code: int) -> None:
        raise Refused(f"a pickle with code in it, refused: extension {code}; {SAVE_AGAIN}")

    def persistent_load(self, pid: Any) -> Any:
        if (
            isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module"
        ):  # a class with its source code, before torch 1.6
            return pid[1]
        kind, name, key, _, count, *view = pid
        if isinstance(name, Skipped):
            raise Refused(f"tensors in a {name.name}, which is not supported; known: {', '.join(STORAGES)}")
        plain = type(kind) is str and type(name) is str and type(key) in (str, int)
        if not plain or kind != "storage" or name not in STORAGES or type(count) is not int or count < 0:
            raise Corrupted(f"a storage record {_shown(kind)} that torch does not write")
        whole = Storage(str(key), STORAGES[name], count)
        if self.storages.setdefault(whole.key, whole) != whole:
            raise Corrupted(f"storage {key!r} described in two ways")
        if not view or view[0] is None:  # old files may share one storage among several views
            return whole
        _, start, size = view[0]
        if not (type(start) is int and type(size) is int and start >= 0 and size >= 0 and start + size <= count):
            raise Corrupted(f"a view beyond the end of storage {key!r}")
        return dataclasses.replace(whole, count=size, start=start)

    def _build(self) -> None:
        """Discards the `_metadata` of a state dict; refuses state for any other object."""
        self.stack.pop()
        if not isinstance(self.stack[-1], collections.OrderedDict | Skipped):
            raise Refused(f"a pickle with code in it, refused: it sets attributes; {SAVE_AGAIN}")

    def _make(self) -> None:
        """`cls.__new__(cls, *args)`, whatever the arguments."""
        self.stack.pop()
        self._new()

    def _make_ex(self) -> None:
        """`cls.__new__(cls, *args, **kwargs)`, whatever the arguments."""
        del self.stack[-2:]
        self._new()

    def _new(self) -> None:
        if not isinstance(self.stack[-1], _Global | Skipped):
            raise Corrupted("an object whose type is not a class")
        self.stack[-1] = self.stack[-1]()

    def _set(self, items: list[Any]) -> None:
        """Sets items of the dict on top of the stack; items of a skipped object are skipped."""
        target = self.stack[-1]
        if isinstance(target, Skipped):
            return
        if not isinstance(target, dict) or len(items) % 2:
            raise Corrupted("dict items for an object that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[_key(key)] = value

    def _setitem(self) -> None:
        items = self.stack[-2:]
        del self.stack[-2:]
        self._set(items)

    def _setitems(self) -> None:
        self._set(self.pop_mark())

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._set(items)

    def _extend(self, items: list[Any]) -> None:
        """Extends the list on top of the stack."""
        target = self.stack[-1]
        if isinstance(target, Skipped):
            return
        if not isinstance(target, list):
            raise Corrupted("list items for an object that is not a list")
        target.extend(items)

    def _append(self) -> None:
        value = self.stack.pop()
        self._extend([value])

    def _appends(self) -> None:
        self._extend(self.pop_mark())

    def _additems(self) -> None:
        items = self.pop_mark()
        if not isinstance(self.stack[-1], set | Skipped):
            raise Corrupted("set items for an object that is not a set")
        if isinstance(self.stack[-1], set):
            self.stack[-1].update(map(_key, items))

    def _frozenset(self) -> None:
        items = self.pop_mark()  # first, because it replaces the stack
        self.append(frozenset(map(_key, items)))

    def _ordered(self, items: Any = ()) -> collections.OrderedDict:
        ordered: collections.OrderedDict = collections.OrderedDict()
        for key, value in items.items() if isinstance(items, Mapping) else items:
            self._pairs += 1  # a list of pairs is stored once but may be referenced often
            if self._pairs > PAIRS:
                raise Corrupted(f"more than {PAIRS} pairs")
            ordered[_key(key)] = value
        return ordered

    dispatch[pickle.BUILD[0]] = _build
    dispatch[pickle.NEWOBJ[0]], dispatch[pickle.NEWOBJ_EX[0]] = _make, _make_ex
    dispatch[pickle.SETITEM[0]], dispatch[pickle.SETITEMS[0]], dispatch[pickle.DICT[0]] = _setitem, _setitems, _dict
    dispatch[pickle.APPEND[0]], dispatch[pickle.APPENDS[0]] = _append, _appends
    dispatch[pickle.ADDITEMS[0]], dispatch[pickle.FROZENSET[0]] = _additems, _frozenset


def _is_code(name: str) -> bool:
    """Whether a global is code rather than data; in the standard library, all but a few names are."""
    package, last = name.partition(".")[0], name.rpartition(".")[2]
    if package in sys.stdlib_module_names:
        return name not in DATA
    return package == "torch" and not last[:1].isupper() and not re.fullmatch(TORCH_DATA, name)


def _key(key: Any) -> Hashable:
    """Checks that a dict's key or set's member hashes in bounded time: nested tuples can grow exponentially."""
    nodes, count = [key], 0
    while nodes:
        node = nodes.pop()
        count += 1
        if not isinstance(node, str | bytes | int | float | tuple | frozenset | Skipped | None) or count > KEY_NODES:
            raise Corrupted(f"a dict key {_shown(key)}, unexpected in a state dict")
        if isinstance(node, tuple):
            nodes.extend(node[:KEY_NODES])
    return key


def _dimensions(sizes: Iterable[Any]) -> tuple[Any, ...]:
    """Checks a shape or strides."""
    if not isinstance(sizes, tuple | list) or len(sizes) > DIMENSIONS:
        raise Corrupted(f"a tensor of shape {_shown(sizes)}")
    return tuple(sizes)


def _of_a_subclass(rebuild: Any, kind: Any, args: Any, state: Any) -> Any:
    """Rebuilds the plain tensor of a tensor subclass or of a tensor with attributes."""
    if not isinstance(rebuild, _Global):
        raise Corrupted("a tensor without a function that rebuilds it")
    return rebuild(*args)


def _tensor(fetch: Fetch, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> LazyTensor:
    if not isinstance(storage, Storage):
        raise Corrupted("a tensor without a storage")
    return LazyTensor(storage, offset, _dimensions(shape), _dimensions(strides), fetch)
