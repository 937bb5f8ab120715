"""Read the tensors of a CTranslate2 model (`model.bin`), the format of faster-whisper.

Little-endian: version, name of the model's kind, its revision, the number of variables; of each its name, rank, sizes,
type, bytes. Strings are counted in 16 bits and end with a zero. Names that share a variable follow, and are left out.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import ml_dtypes
import numpy as np

# By the number of the type; those of 8 and 16 bit integers are quantised, and need scales to mean something.
TYPES = {
    0: np.dtype("<f4"),
    1: np.dtype("i1"),
    2: np.dtype("<i2"),
    3: np.dtype("<i4"),
    4: np.dtype("<f2"),
    5: np.dtype(ml_dtypes.bfloat16),
}
FIRST, LAST = 4, 6  # versions whose variables have a type


def begins(head: bytes) -> bool:
    """Whether a file that begins like this is a CTranslate2 model: a small version, and the name of a `...Spec`."""
    if len(head) < 8 or not 0 < int.from_bytes(head[:4], "little") < 64:
        return False
    length = int.from_bytes(head[4:6], "little")
    return head[6 : 6 + length].endswith(b"Spec\0")


def read(content: bytes) -> dict[str, np.ndarray]:
    """{name: read-only array}; `ValueError` for a damaged file, or one of another version."""
    return dict(_variables(content))


def _variables(content: bytes) -> Iterator[tuple[str, np.ndarray]]:
    place = 0

    def number(kind: str) -> int:
        nonlocal place
        try:
            (value,) = struct.unpack_from(f"<{kind}", content, place)
        except struct.error:
            raise ValueError("it ends early") from None
        place += struct.calcsize(f"<{kind}")
        return value

    def bytes_of(count: int) -> bytes:
        nonlocal place
        if place + count > len(content):
            raise ValueError("it ends early")
        place += count
        return content[place - count : place]

    version = number("I")
    if not FIRST <= version <= LAST:
        raise ValueError(f"version {version}, expected {FIRST} to {LAST}")
    bytes_of(number("H"))  # the model's kind
    number("I")  # its revision
    for _ in range(number("I")):
        name = bytes_of(number("H")).rstrip(b"\0").decode()
        sizes = [number("I") for _ in range(number("B"))]
        kind, count = number("B"), number("I")
        if kind not in TYPES:
            raise ValueError(f"{name} has type {kind}, which is not known")
        values = np.frombuffer(bytes_of(count), TYPES[kind])
        if values.size != int(np.prod(sizes)):
            raise ValueError(f"{name} has {values.size} values, expected {sizes}")
        yield name, values.reshape(sizes)
