"""Cases of `test_families.py`, a file for each family: what the reference is called, and how its parts answer ours.

A file `x.py` holds `CASES = {name: Case(...)}`; a new family adds one file here and nothing else. References of
transformers are in `x.py`, those of torchvision and timm in `x_torch.py`, which imports them from
`tests.parity.packages`. `golden=True` also writes the case to `tests/models/golden/`
(`python -m tests.models.golden.family x`), where `make test` reads it.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import pkgutil
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One reference model at a tiny, odd size.

    Attributes:
      layout: (family, name of the layout).
      make: the PyTorch model; it need not be drawn, `settle` does that.
      units: {unit of ours: submodule of theirs with the same output}; logits are compared whatever is here.
      image: (height, width, channels) of the input; None for texts and sounds.
      spread: standard deviation of the images: small where the first convolution enlarges what it reads.
      audio: (frames, mels) of the input.
      length: tokens of the longest text.
      outputs: of the head.
      last: regex of the submodules that end a residual branch, and the gain that they get.
      gain: see `last`.
      rate: of ten steps of SGD: high enough that every leaf moves much further than the tolerance; 0 leaves them out.
      still: regex of our leaves that have no gradient (an attention key's bias).
      options: of ours, beyond what the layout reads.
      shaped: {unit: function of the reference's activation, channels last, -> ours}.
      prepared: called with the settled model.
      logits: what their forward pass returns -> logits.
      unread: regex of their parameters that a classifier doesn't read.
      golden: whether a golden file keeps it.
    """

    layout: tuple[str, str]
    make: Callable[[], Any]
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image: tuple[int, int, int] | None = None
    spread: float = 1.0
    audio: tuple[int, int] | None = None
    length: int = 9
    outputs: int = 3
    last: str = "none"
    gain: float = 0.5
    rate: float = 0.05
    still: str = r".*/key/bias"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shaped: Mapping[str, Callable[[np.ndarray], np.ndarray]] = dataclasses.field(default_factory=dict)
    prepared: Callable[[Any], Any] = lambda model: None
    logits: Callable[[Any], Any] = lambda output: getattr(output, "logits", output)
    unread: str = "none"
    golden: bool = False


def cases(family: str | None = None) -> dict[str, Case]:
    """{FAMILY-NAME: case} of one family's file or of all."""
    names = [family] if family else sorted(info.name for info in pkgutil.iter_modules(__path__))
    # Where torchvision is, transformers is not asked, and the other way round (`tests.parity.packages`).
    seen = importlib.util.find_spec("torchvision") is not None
    names = [name for name in names if family or name.endswith("_torch") == seen]
    found = {name: importlib.import_module(f"{__name__}.{name}").CASES for name in names}
    return {f"{name}-{case}": of[case] for name, of in found.items() for case in of}
