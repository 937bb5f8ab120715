"""Tiny whole experiments for the tests: sets of images, of phrases and of sounds, every model at its smallest."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

from jaxfer.conformance import training
from jaxfer.conformance.training import CLASSES, backbone, batches, continue_training, tiny_stage, train
from jaxfer.training import loop, session
from jaxfer.training.preemption import Notice

__all__ = (
    "CLASSES",
    "PHRASES",
    "SOUNDS",
    "TOKENIZER",
    "backbone",
    "batches",
    "continue_training",
    "stop_after",
    "tiny_config",
    "tiny_stage",
    "train",
)

DATA = Path(__file__).parent / "data"
PHRASES, TOKENIZER = str(DATA / "phrases"), str(DATA / "tokenizer")  # 48 of three classes; 23 tokens
SERIES = {"series_cnn": "series.npz", "patchtst": "channels.npz"}  # of 9 numbers; of 11 pairs
CAPTIONS = str(DATA / "captions")  # 36 images of three classes, each with a text
SOUNDS = str(DATA / "sounds")  # 48 of three classes


def tiny_config(case: str, **fields: Any) -> ConfigDict:
    """A config of one tiny model (a key of TINY) on 48 images, phrases or sounds, or 32 series or rows, 36 images with
    texts, 8 a step."""
    config = training.tiny_config(case)
    if "rate" in config.model:
        config.data = dict(source="sounds", path=SOUNDS)
    elif config.model.name in SERIES:
        config.data = dict(source="npz", path=str(DATA / SERIES[config.model.name]))
    elif "numbers" in config.model:
        columns = dict(numbers=config.model.numbers, categories=config.model.categories)
        config.data = dict(source="csv_rows", path=str(DATA / "rows"), **columns)
    elif "text_width" in config.model:
        config.data = dict(source="image_table", path=CAPTIONS, text="text", val_fraction=0.25)
        config.model.tokenizer = TOKENIZER
    elif "image" not in config.model:
        config.data = dict(source="table", path=PHRASES)
        config.model.tokenizer = TOKENIZER
    for name, value in fields.items():
        config[name] = value
    return training.with_needs(config)


def stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """SIGTERM's notice, given after so many steps of the loop."""

    class Countdown(Notice):
        asked = 0

        def __bool__(self) -> bool:
            return self.asked >= steps

    notice, step = Countdown(), session.Reporter.step

    def counted(self: session.Reporter, *args: Any) -> Any:
        notice.asked += 1
        return step(self, *args)

    patch.setattr(session.Reporter, "step", counted)
    patch.setattr(loop, "preemption_notice", lambda: contextlib.nullcontext(notice))
