"""NumPy archives: plain arrays by name, read with one exception type for every damaged file, written in parts."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np


class Parts(NamedTuple):
    """An array that is never whole in memory.

    Attributes:
      shape: of the whole.
      dtype: of its values.
      parts: along the first axis, in order.
    """

    shape: tuple[int, ...]
    dtype: str
    parts: Iterator[np.ndarray]


def read(file: str | os.PathLike[str] | BinaryIO) -> dict[str, np.ndarray]:
    """{name: array} of an .npz; object arrays, which are pickles, are not read.

    Raises:
      ValueError: not an .npz of plain arrays; the one-line message does not name the file.
    """
    try:
        if isinstance(file, (str, os.PathLike)) and not os.path.isfile(file):  # opening a pipe would block
            raise ValueError("not a regular file")
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("a single array")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
        odd = next((name for name, array in arrays.items() if not isinstance(array, np.ndarray)), None)
        if odd is not None:
            raise ValueError(f"its member {odd} is not an .npy file")
        return arrays
    except Exception as error:  # zip, its compressors and NumPy's header parser raise nearly anything on noise
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from None


def write(file: BinaryIO, arrays: Iterable[tuple[str, np.ndarray | Parts]]) -> None:
    """Writes (name, array) pairs, taken one after the other, as `np.savez` does; equal arrays give equal bytes."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays:
            # A ZipInfo of its own has no time of writing.
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                if not isinstance(array, Parts):
                    np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
                    continue
                descr = np.lib.format.dtype_to_descr(np.dtype(array.dtype))
                header = {"descr": descr, "fortran_order": False, "shape": array.shape}
                np.lib.format.write_array_header_1_0(member, header)
                for part in array.parts:
                    member.write(np.ascontiguousarray(part, array.dtype).data)


def names(file: BinaryIO) -> tuple[str, ...]:
    """The names of an archive's arrays; () for a file that is none."""
    if not zipfile.is_zipfile(file):
        return ()
    with zipfile.ZipFile(file) as archive:
        return tuple(name.removesuffix(".npy") for name in archive.namelist())
