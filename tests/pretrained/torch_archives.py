"""Writes PyTorch's two containers byte by byte, opcode by opcode, as torch.save does; torch is not needed."""

from __future__ import annotations

import dataclasses
import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import Any

import ml_dtypes
import numpy as np

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
STORAGE_OF = {
    "<f8": "DoubleStorage",
    "<f4": "FloatStorage",
    "<f2": "HalfStorage",
    "<i8": "LongStorage",
    "<i4": "IntStorage",
    "<i2": "ShortStorage",
    "|i1": "CharStorage",
    "|u1": "ByteStorage",
    "|b1": "BoolStorage",
}


def storage_name(dtype: np.dtype) -> str:
    return "BFloat16Storage" if dtype == ml_dtypes.bfloat16 else STORAGE_OF[np.dtype(dtype).str]


@dataclasses.dataclass
class Tensor:
    """A tensor over a flat array; tensors over the same array share its storage."""

    flat: np.ndarray
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0
    parameter: bool = False
    view: tuple[int, int] | None = None  # (start, size) of an old container's storage view
    claims: int | None = None  # a forged element count


def tensor(array: Any, **options: Any) -> Tensor:
    array = np.asarray(array)
    strides = tuple(step // array.itemsize for step in np.ascontiguousarray(array).reshape(array.shape).strides)
    return Tensor(np.ascontiguousarray(array).reshape(-1), array.shape, strides, **options)


@dataclasses.dataclass(eq=False)
class Call:
    """REDUCE of a global: code in a pickle."""

    module: str
    name: str
    args: tuple[Any, ...] = ()


class Pickler:
    def __init__(self, old: bool = False):
        self.old, self.storages = old, {}

    def dump(self, value: Any) -> bytes:
        return b"\x80\x02" + self.emit(value) + b"."

    def emit(self, value: Any) -> bytes:
        if value is None:
            return b"N"
        if isinstance(value, bool):
            return b"\x88" if value else b"\x89"
        if isinstance(value, int):
            return (
                b"J" + struct.pack("<i", value)
                if abs(value) < 2**31
                else b"\x8a\x0a" + value.to_bytes(10, "little", signed=True)
            )
        if type(value) is float:
            return b"G" + struct.pack(">d", value)
        if isinstance(value, str):
            return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
        if isinstance(value, tuple):
            return b"(" + b"".join(map(self.emit, value)) + b"t"
        if isinstance(value, list):
            return b"](" + b"".join(map(self.emit, value)) + b"e"
        if type(value) in (dict, OrderedDict):
            items = b"(" + b"".join(self.emit(k) + self.emit(v) for k, v in value.items()) + b"u"
            if not isinstance(value, OrderedDict):
                return b"}" + items
            # a state dict's _metadata is set through BUILD
            return self.emit(Call("collections", "OrderedDict")) + items + self.emit({"_metadata": {"": 1}}) + b"b"
        if isinstance(value, Call):
            return f"c{value.module}\n{value.name}\n".encode() + self.emit(value.args) + b"R"
        if isinstance(value, Tensor):
            return self.emit_tensor(value)
        return pickle.dumps(value, protocol=2)[2:-1]  # an object of any class, as torch.save would write it

    def emit_tensor(self, x: Tensor) -> bytes:
        key = str(self.storages.setdefault(id(x.flat), (len(self.storages), x.flat))[0])
        count = x.flat.size if x.claims is None else x.claims
        view = b"" if not self.old else self.emit(None if x.view is None else ("view", *x.view))
        name = f"ctorch\n{storage_name(x.flat.dtype)}\n".encode()
        pid = b"(" + self.emit("storage") + name + self.emit(key) + self.emit("cpu") + self.emit(count) + view + b"tQ"
        hooks = self.emit(Call("collections", "OrderedDict"))
        facts = self.emit(x.offset) + self.emit(x.shape) + self.emit(x.strides) + self.emit(False) + hooks
        data = b"ctorch._utils\n_rebuild_tensor_v2\n(" + pid + facts + b"tR"
        if not x.parameter:
            return data
        return b"ctorch._utils\n_rebuild_parameter\n(" + data + self.emit(True) + hooks + b"tR"


def new_archive(value: Any, *, byteorder: str = "little", compression: int = zipfile.ZIP_STORED) -> bytes:
    """The zip container of torch 1.6 and later."""
    pickler, out = Pickler(), io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        archive.writestr("model/data.pkl", pickler.dump(value))
        archive.writestr("model/byteorder", byteorder)
        for key, flat in pickler.storages.values():
            archive.writestr(f"model/data/{key}", flat.tobytes())
        archive.writestr("model/version", "3\n")
    return out.getvalue()


def old_archive(value: Any, *, little: bool = True) -> bytes:
    """The stream container of torch before 1.6."""
    pickler = Pickler(old=True)
    content = pickler.dump(value)
    facts = {"protocol_version": 1001, "little_endian": little, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    head = pickler.dump(MAGIC_NUMBER) + pickler.dump(1001) + pickler.dump(facts)
    keys = pickle.dumps([str(key) for key, _ in pickler.storages.values()], protocol=2)
    data = b"".join(struct.pack("<q", flat.size) + flat.tobytes() for _, flat in pickler.storages.values())
    return head + content + keys + data
