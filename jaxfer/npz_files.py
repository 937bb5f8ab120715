"""NumPy archives: plain arrays by name, and one exception type for every damaged file."""

from __future__ import annotations

import os
from typing import BinaryIO

import numpy as np


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
