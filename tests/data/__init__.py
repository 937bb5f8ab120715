from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("JAXFER_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")


def shared(name):
    """A path in the data folder of real images, or a skip where there is none."""
    if not (SHARED / name).exists():
        pytest.skip(f"needs {name} of the data folder: set JAXFER_DATA, or put it at ../shared/data")
    return str(SHARED / name)
