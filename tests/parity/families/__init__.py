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
import torch


def spectrograms(batch: Mapping[str, np.ndarray]) -> Any:
    """[b, mels, frames] of our [b, frames, mels], and what a decoder beside the encoder reads, if there is one."""
    sounds = torch.tensor(batch["audio"].transpose(0, 2, 1))
    if "decoder_input_ids" not in batch:
        return sounds
    return {"input_features": sounds, "decoder_input_ids": torch.tensor(batch["decoder_input_ids"]).long()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One reference model at a tiny, odd size.

    Attributes:
      layout: (family, name of the layout).
      make: the PyTorch model; it need not be drawn, `settle` does that.
      units: {unit of ours: submodule of theirs with the same output}; logits are compared whatever is here.
      image: (height, width, channels) of the input; None for texts, sounds and series.
      spread: standard deviation of the images: small where the first convolution enlarges what it reads.
      audio: (frames, mels) of the input.
      sounds: (examples, seed) -> our batch, where it is not of normal spectrograms.
      heard: our batch of sounds -> their input; Whisper's is [b, mels, frames].
      series: (length, channels) of the input.
      batch: (examples, seed) -> our batch, of any other input.
      theirs: that batch -> their keyword arguments.
      length: tokens of the longest text.
      texts: (token ids, mask) -> ids: what a reference asks of texts.
      target: tokens that a decoder beside the encoder reads; 0: there is none.
      outputs: of the head.
      last: regex of the submodules that end a residual branch, and the gain that they get.
      gain: see `last`.
      seed: of the draw of weights: another one where a draw leaves the range that a comparison counts in.
      rate: of ten steps of SGD: high enough that every leaf moves much further than the tolerance; 0 leaves them out.
      still: regex of our leaves that have no gradient (an attention key's bias).
      options: of ours, beyond what the layout reads.
      shaped: {unit: function of the reference's activation, channels last, -> ours}.
      prepared: called with the settled model.
      logits: what their forward pass returns -> logits.
      read: logits [batch, ...] -> those that the steps of SGD learn, [batch, outputs or more].
      unread: regex of their parameters that a classifier doesn't read.
      golden: whether a golden file keeps it.
      exported: whether transformers has a class for it.
    """

    layout: tuple[str, str]
    make: Callable[[], Any]
    units: Mapping[str, str] = dataclasses.field(default_factory=dict)
    image: tuple[int, int, int] | None = None
    spread: float = 1.0
    audio: tuple[int, int] | None = None
    sounds: Callable[[int, int], dict[str, np.ndarray]] | None = None
    heard: Callable[[Mapping[str, np.ndarray]], Any] = spectrograms
    series: tuple[int, int] | None = None
    batch: Callable[[int, int], dict[str, np.ndarray]] | None = None
    theirs: Callable[[Mapping[str, np.ndarray]], dict[str, Any]] = dict
    length: int = 9
    texts: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda ids, mask: ids
    target: int = 0
    outputs: int = 3
    last: str = "none"
    gain: float = 0.5
    seed: int = 0
    rate: float = 0.05
    still: str = r".*/key/bias"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    shaped: Mapping[str, Callable[[np.ndarray], np.ndarray]] = dataclasses.field(default_factory=dict)
    prepared: Callable[[Any], Any] = lambda model: None
    logits: Callable[[Any], Any] = lambda output: getattr(output, "logits", output)
    read: Callable[[Any], Any] = lambda logits: logits
    unread: str = "none"
    golden: bool = False
    exported: bool = True


def cases(family: str | None = None) -> dict[str, Case]:
    """{FAMILY-NAME: case} of one family's file or of all."""
    names = [family] if family else sorted(info.name for info in pkgutil.iter_modules(__path__))
    # Where torchvision is, transformers is not asked, and the other way round (`tests.parity.packages`).
    seen = importlib.util.find_spec("torchvision") is not None
    names = [name for name in names if family or name.endswith("_torch") == seen]
    found = {name: importlib.import_module(f"{__name__}.{name}").CASES for name in names}
    return {f"{name}-{case}": of[case] for name, of in found.items() for case in of}
