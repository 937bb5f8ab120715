"""ONNX's messages by hand: fields, tensors of each kind of storage, and names of linear layers' kernels."""

from __future__ import annotations

import struct

import ml_dtypes
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.pretrained.formats import onnx
from jaxfer.pretrained.formats.reading import read


def number(value):
    """A varint; negative numbers are of 64 bits."""
    value, found = value % 2**64, b""
    while value > 127:
        value, found = value >> 7, found + bytes([value % 128 + 128])
    return found + bytes([value])


def field(tag, value):
    if isinstance(value, int):
        return number(tag << 3) + number(value)
    value = value.encode() if isinstance(value, str) else value
    return number(tag << 3 | 2) + number(len(value)) + value


def tensor(name, kind, sizes, *values):
    dims = b"".join(field(1, size) for size in sizes)
    return dims + field(2, kind) + b"".join(values) + field(8, name)


def raw(name, array):
    return tensor(name, {"f": 1, "i": 7}[array.dtype.kind], array.shape, field(9, array.tobytes()))


def node(kind, name, inputs, output):
    return b"".join(field(1, x) for x in inputs) + field(2, output) + field(3, name) + field(4, kind)


def model(*tensors, nodes=()):
    graph = b"".join(field(1, node) for node in nodes) + b"".join(field(5, tensor) for tensor in tensors)
    return field(1, 8) + field(2, "pytorch") + field(7, graph)


KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_ways_in_which_tensors_are_held(tmp_path):
    halves = np.array([1.5, -2.0], np.float16)
    brain = np.array([1.5, -2.0], ml_dtypes.bfloat16)
    bits = [b"".join(number(int(x)) for x in array.view(np.uint16)) for array in (halves, brain)]
    content = model(
        raw("raw", KERNEL),
        tensor("floats", 1, (1, 2), field(4, struct.pack("<2f", 0.5, -3))),
        tensor("doubles", 11, (1,), field(10, struct.pack("<d", 0.1))),
        tensor("halves", 10, (2,), field(5, bits[0])),
        tensor("brain", 16, (2,), field(5, bits[1])),
        tensor("one", 7, (), field(7, number(-5))),
        tensor("packed", 6, (), field(5, number(300))),
        tensor("empty", 1, (0,)),
    )
    (tmp_path / "model.onnx").write_bytes(content)
    found = read(tmp_path / "model.onnx")
    expected = {
        "raw": KERNEL,
        "floats": np.array([[0.5, -3]], np.float32),
        "doubles": np.array([0.1]),
        "halves": halves,
        "brain": brain,
        "one": np.array(-5, np.int64),
        "packed": np.array(300, np.int32),
        "empty": np.zeros(0, np.float32),
    }
    assert found.keys() == expected.keys() and not found["raw"].flags.writeable
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def test_kernels_without_a_name():
    """By the bias that is added, or by the node; a kernel that no node multiplies by keeps its name."""
    nodes = (
        node("MatMul", "/model/model.0/layer.1/query/MatMul", ("x", "onnx::MatMul_7"), "y"),
        node("Add", "/model/model.0/layer.1/query/Add", ("model.0.layer.1.query.bias", "y"), "z"),
        node("MatMul", "/model/model.0/layer.1/out/MatMul", ("z", "onnx::MatMul_8"), "u"),
        node("MatMul", "/model/MatMul", ("u", "v"), "w"),
    )
    content = model(
        raw("onnx::MatMul_7", KERNEL),
        raw("onnx::MatMul_8", -KERNEL),
        raw("model.0.layer.1.query.bias", KERNEL[0]),
        raw("onnx::Conv_3", KERNEL),
        raw("onnx::Unsqueeze_4", np.array([1, 2])),
        nodes=nodes,
    )
    assert onnx.begins(content)
    found, left = onnx.read(content)
    assert left == ("onnx::Unsqueeze_4",)
    assert set(found) == {
        *("model.0.layer.1.query.weight", "model.0.layer.1.query.bias"),
        *("model.0.layer.1.out.weight", "onnx::Conv_3"),
    }
    np.testing.assert_array_equal(found["model.0.layer.1.query.weight"], KERNEL.T)
    np.testing.assert_array_equal(found["model.0.layer.1.out.weight"], -KERNEL.T)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model(raw("a", KERNEL))[:-3], "it ends early"),
        (field(1, 8) + field(2, "pytorch"), "it has no graph"),
        (field(1, 8) + field(7, number(5 << 3) + b"\x01"), "a number where a message is expected"),
        (field(1, 8) + field(7, b"\x0b"), "field 1 is of the unknown kind 3"),
        (field(1, 8) + field(7, b"\xff" * 12), "a number of more than 64 bits"),
        (model(tensor("a", 1, (3,), field(9, KERNEL.tobytes()))), r"a has 6 values, expected \[3\]"),
        (model(tensor("a", 8, (1,))), "a has type 8, which is not known"),
        (model(tensor("a", 1, (1,), field(14, 1))), "a lies in another file, which is not supported"),
        (model(tensor(b"\xff", 1, (0,))), "a name that is no text"),
    ],
)
def test_a_damaged_model(content, message, tmp_path):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(InputError, match=rf"model.onnx: an ONNX model that can't be read \({message}\); download it"):
        read(tmp_path / "model.onnx")
