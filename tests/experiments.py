"""Tiny whole experiments for the tests: one set of synthetic images, one of phrases, every model at its smallest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jaxfer.conformance import training
from jaxfer.conformance.training import CLASSES, backbone, batches, continue_training, tiny_stage, train

__all__ = (
    "CLASSES",
    "PHRASES",
    "TOKENIZER",
    "backbone",
    "batches",
    "continue_training",
    "tiny_config",
    "tiny_stage",
    "train",
)

DATA = Path(__file__).parent / "data"
PHRASES, TOKENIZER = str(DATA / "phrases"), str(DATA / "tokenizer")  # 48 of three classes; 23 tokens


def tiny_config(case: str, **fields: Any) -> ConfigDict:
    """A config of one tiny model (a key of TINY) on 48 images or phrases, or 32 series or rows, 8 a step."""
    config = training.tiny_config(case)
    if config.model.name == "series_cnn":
        config.data = dict(source="npz", path=str(DATA / "series.npz"))
    elif config.model.name == "row_mlp":
        columns = dict(numbers=config.model.numbers, categories=config.model.categories)
        config.data = dict(source="csv_rows", path=str(DATA / "rows"), **columns)
    elif "image" not in config.model:
        config.data = dict(source="table", path=PHRASES)
        config.model.tokenizer = TOKENIZER
    for name, value in fields.items():
        config[name] = value
    return config
