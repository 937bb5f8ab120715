"""Write tensors in the form that transformers and peft expect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath


def write(path: epath.Path, tensors: Mapping[str, Any]) -> None:
    """Writes a safetensors file that transformers and peft can load."""
    arrays = {
        name: np.array(value, order="C") for name, value in tensors.items()
    }  # unlike ascontiguousarray, keeps scalars 0-d
    path.write_bytes(safetensors.numpy.save(arrays, metadata={"format": "pt"}))
