"""Writes the golden files of a family's cases that `tests/parity/families` marks: `FAMILY_CASE.npz`.

    python -m tests.models.golden.family FAMILY ...        (needs PyTorch: the extra `parity`)

As the files of `make.py`; for texts, the input fields in place of `x`.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from tests.parity.families import cases
from tests.parity.reference import answers, drawn, fed, saved

FOLDER = Path(__file__).parent


def write(name: str, case) -> None:
    """One golden file: the settled model, rounded to what float16 holds, and what it answers."""
    model, _ = drawn(case)
    with torch.no_grad():
        still = {name for name, leaf in model.named_parameters() if not leaf.requires_grad}  # sinusoids
        for key, leaf in model.state_dict().items():  # what is not saved, such as frequencies, stays as computed
            if leaf.is_floating_point() and key not in still:
                leaf.copy_(leaf.half().float())
    batch, _ = fed(case, model, 1 if case.image else 2, 0)
    batch = {key: x.astype(np.float16).astype(x.dtype) if x.dtype == np.float32 else x for key, x in batch.items()}
    with tempfile.TemporaryDirectory() as folder:
        weights = saved(model, Path(folder))
    weights = {
        key: value
        for key, value in weights.items()
        if not key.endswith("num_batches_tracked") and not re.fullmatch(case.unread, key)
    }
    expected = answers(case, model, batch)
    shapes = {
        what: {key: v.shape for key, v in of.items()} for what, of in (("weights", weights), ("expected", expected))
    }
    config = model.config.to_dict() if hasattr(getattr(model, "config", None), "to_dict") else {}
    index = {"config": config, "layout": case.layout, "options": dict(case.options), **shapes}
    small = {"int32": np.int16, "float32": np.float16}
    inputs = {{"image": "x"}.get(key, key): x.astype(small[str(x.dtype)]) for key, x in batch.items()}
    np.savez_compressed(
        FOLDER / f"{name.replace('-', '_')}.npz",
        index=np.frombuffer(json.dumps(index, default=str).encode(), np.uint8),
        **inputs,
        weights=np.concatenate([value.ravel() for value in weights.values()]).astype(np.float16),
        expected=np.concatenate([value.ravel() for value in expected.values()]),
    )


if __name__ == "__main__":
    for family in sys.argv[1:]:
        for name, case in cases(family).items():
            if case.golden:
                write(name, case)
