"""CTranslate2's container by hand."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.pretrained.formats.reading import read


def word(text):
    return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"


def variable(name, array, kind):
    sizes = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
    return word(name) + sizes + struct.pack("<BI", kind, array.nbytes) + array.tobytes()


def model(*variables, version=6, count=None):
    head = struct.pack("<I", version) + word("WhisperSpec") + struct.pack("<II", 3, count or len(variables))
    return head + b"".join(variables) + struct.pack("<I", 0)


HALF = np.arange(6, dtype=np.float16).reshape(2, 3) / 4


def test_variables_by_hand(tmp_path):
    heads = np.array(6, np.int16)
    (tmp_path / "model.bin").write_bytes(model(variable("encoder/a", HALF, 4), variable("encoder/num_heads", heads, 2)))
    found = read(tmp_path / "model.bin")
    assert set(found) == {"encoder/a", "encoder/num_heads"} and found["encoder/a"].dtype == np.float16
    np.testing.assert_array_equal(found["encoder/a"], HALF)
    assert found["encoder/num_heads"] == 6 and not found["encoder/a"].flags.writeable


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (model(variable("a", HALF, 4))[:-8], "it ends early"),
        (model(variable("a", HALF, 4), count=2), "it ends early"),
        (model(variable("a", HALF, 9)), "a has type 9, which is not known"),
        (model(variable("a", HALF, 0)), r"a has 3 values, expected \[2, 3\]"),
        (model(variable("a", HALF, 4), version=3), "version 3, expected 4 to 6"),
    ],
)
def test_a_damaged_model(content, message, tmp_path):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(InputError, match=rf"model.bin: a damaged CTranslate2 model \({message}\); download it again"):
        read(tmp_path / "model.bin")
