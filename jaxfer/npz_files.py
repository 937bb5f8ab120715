"""NumPy archives: plain arrays by name, and one kind of error for whatever is wrong with a file."""

from __future__ import annotations

import os
from typing import BinaryIO

import numpy as np


def read(file: str | os.PathLike[str] | BinaryIO) -> dict[str, np.ndarray]:
    """{name: array} of an .npz; arrays of objects, which are pickles, are not read.

    Raises:
      ValueError: no .npz of plain arrays; the message is one line and does not name the file.
    """
    try:
        if isinstance(file, (str, os.PathLike)) and not os.path.isfile(file):  # opening a pipe would wait for ever
            raise ValueError("not a regular file")
        archive = np.load(file, allow_pickle=False)
        if isinstance(archive, np.ndarray):
            raise ValueError("a single array")
        with archive:
            arrays = {name: archive[name] for name in archive.files}
        odd = next((name for name, array in arrays.items() if not isinstance(array, np.ndarray)), None)
        if odd is not None:
            raise ValueError(f"its member {odd} is no .npy")
        return arrays
    except Exception as error:  # zip, its compressors and NumPy's header raise nearly anything when fed with noise
        raise ValueError((str(error).splitlines() or [type(error).__name__])[0]) from None
