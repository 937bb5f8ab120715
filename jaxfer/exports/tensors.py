"""Tensors as transformers and peft expect them in a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.numpy
from etils import epath


def write(path: epath.Path, tensors: Mapping[str, Any]) -> None:
    """A safetensors file as transformers and peft expect it."""
    arrays = {name: np.array(value, order="C") for name, value in tensors.items()}  # which keeps a scalar one
    path.write_bytes(safetensors.numpy.save(arrays, metadata={"format": "pt"}))
