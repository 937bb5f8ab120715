"""Read the initialisers of an ONNX model (`.onnx`) under the names of PyTorch's parameters, without the package `onnx`.

The file is a protobuf message: fields of a number and a value, which is a varint, bytes or a fixed width. Only graph,
nodes and initialisers are read (onnx.proto3 of github.com/onnx/onnx). PyTorch's exporter names parameters as its
state dict does, but for the transposed kernels of linear layers, `onnx::MatMul_123`: the node that reads one, or the
bias that follows, says which layer's it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import ml_dtypes
import numpy as np

# By TensorProto.DataType.
TYPES = {
    **{1: np.dtype("<f4"), 2: np.dtype("u1"), 3: np.dtype("i1"), 4: np.dtype("<u2"), 5: np.dtype("<i2")},
    **{6: np.dtype("<i4"), 7: np.dtype("<i8"), 9: np.dtype("?"), 10: np.dtype("<f2"), 11: np.dtype("<f8")},
    **{12: np.dtype("<u4"), 13: np.dtype("<u8"), 16: np.dtype(ml_dtypes.bfloat16)},
}
BYTES, VARINTS = (9, 4, 10), (5, 7, 11)  # fields of a tensor that hold its values
EARLY = "it ends early"
UNNAMED = r"onnx::.*|/.*|(val_)?\d+"  # what no parameter of PyTorch is called

Value = int | memoryview


class Node(NamedTuple):
    """An operation: its kind, its name (`/encoder/layer.0/query/MatMul`), and names of inputs and outputs."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def begins(head: bytes) -> bool:
    """Whether a file that begins like this is an ONNX model: a small version, then its producer, opset or graph."""
    return len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 32 and head[2] in (0x12, 0x1A, 0x22, 0x3A, 0x42)


def read(content: bytes) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """({name: read-only array}, names of constants without a layer); `ValueError` for a damaged or other file."""
    graph = next((value for number, value in _fields(memoryview(content)) if number == 7), None)
    if not isinstance(graph, memoryview):
        raise ValueError("it has no graph")
    parts = list(_fields(graph))
    tensors = dict(_tensor(value) for number, value in parts if number == 5)
    layers = _layers([_node(value) for number, value in parts if number == 1], tensors)
    found, left = {}, []
    for name, value in tensors.items():
        if name in layers:
            found[layers[name]] = value.T  # a linear layer's weight is [out, in]
        elif re.fullmatch(UNNAMED, name) and value.ndim < 2:  # a constant of the graph: a shape, an epsilon
            left.append(name)
        else:
            found[name] = value
    return found, tuple(left)


def _layers(nodes: list[Node], tensors: Mapping[str, np.ndarray]) -> dict[str, str]:
    """{unnamed kernel of a linear layer: the name of its weight}."""
    added: dict[str, list[str]] = {}  # {output of a product: biases added to it}
    for node in nodes:
        for name in node.inputs if node.kind == "Add" else ():
            added.setdefault(name, []).extend(x for x in node.inputs if x in tensors and x.endswith(".bias"))
    found = {}
    for node in nodes:
        kernel = next((name for name in node.inputs[1:] if name in tensors and re.fullmatch(UNNAMED, name)), None)
        if node.kind == "MatMul" and kernel is not None and tensors[kernel].ndim == 2:
            bias = next((name for output in node.outputs for name in added.get(output, ())), None)
            found[kernel] = f"{bias.removesuffix('.bias') if bias else _path(node.name)}.weight"
    return found


def _path(name: str) -> str:
    """The module that a node lies in: `/model/model.0/query/MatMul` -> `model.0.query`."""
    scopes = name.strip("/").split("/")[:-1]
    # The scope of a container comes before that of its parts, whose names hold it.
    return ".".join(a for a, b in zip(scopes, [*scopes[1:], ""], strict=True) if not b.startswith(f"{a}."))


def _node(message: Value) -> Node:
    found: dict[int, list[str]] = {1: [], 2: [], 3: [""], 4: [""]}
    for number, value in _fields(message):
        if number in found:
            found[number].append(_text(value))
    return Node(found[4][-1], found[3][-1], tuple(found[1]), tuple(found[2]))


def _tensor(message: Value) -> tuple[str, np.ndarray]:
    """(name, array) of a TensorProto."""
    found: dict[int, list[Value]] = {}
    for number, value in _fields(message):
        found.setdefault(number, []).append(value)
    name, kind = _text(found.get(8, [""])[-1]), found.get(2, [0])[-1]
    if found.get(14, [0])[-1]:
        raise ValueError(f"{name} lies in another file, which is not supported")
    if kind not in TYPES:
        raise ValueError(f"{name} has type {kind}, which is not known")
    dtype, sizes = TYPES[kind], [size for value in found.get(1, ()) for size in _varints(value)]
    if numbers := [number for field in VARINTS for value in found.get(field, ()) for number in _varints(value)]:
        values = _of_varints(numbers, dtype)
    else:
        parts = [value for field in BYTES for value in found.get(field, ())]
        held = parts[0] if len(parts) == 1 else b"".join(parts)
        values = np.frombuffer(held, dtype, len(held) // dtype.itemsize)
    if values.size != int(np.prod(sizes)):
        raise ValueError(f"{name} has {values.size} values, expected {sizes}")
    values = values.reshape(sizes)
    values.flags.writeable = False
    return name, values


def _of_varints(numbers: list[int], dtype: np.dtype) -> np.ndarray:
    """Integers, negative ones as their two's complement, or the bits of halves."""
    if dtype.kind in "iub":
        return np.array(numbers, np.uint64).astype(dtype)
    return np.array([number % 2**16 for number in numbers], np.uint16).view(dtype)


def _fields(message: Value) -> Iterator[tuple[int, Value]]:
    """(number, value) of each field of a message."""
    if not isinstance(message, memoryview):
        raise ValueError("a number where a message is expected")
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if kind == 0:
            value, place = _varint(message, place)
        elif kind in (1, 2, 5):
            length, place = _varint(message, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            value, place = message[place : place + length], place + length
            if place > len(message):
                raise ValueError(EARLY)
        else:
            raise ValueError(f"field {number} is of the unknown kind {kind}")
        yield number, value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """(number, place after it): 7 bits a byte, the lowest first, while the highest bit is set."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(message):
            raise ValueError(EARLY)
        byte, place = message[place], place + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise ValueError("a number of more than 64 bits")


def _varints(value: Value) -> list[int]:
    """One number, or several side by side."""
    if isinstance(value, int):
        return [value]
    numbers, place = [], 0
    while place < len(value):
        number, place = _varint(value, place)
        numbers.append(number)
    return numbers


def _text(value: Value) -> str:
    try:
        return bytes(value).decode() if isinstance(value, memoryview) else str(value)
    except UnicodeDecodeError:
        raise ValueError("a name that is no text") from None
