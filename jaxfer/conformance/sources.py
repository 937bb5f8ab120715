"""What every data source must keep. Each property is a function of its Dataset -> None or what is wrong."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np

from jaxfer.data.split import Dataset


def it_has_a_train_split_and_known_names(dataset: Dataset) -> str | None:
    if unknown := set(dataset.splits) - {"train", "val", "test"}:
        return f"splits {sorted(unknown)}; expected train, and val or test"
    return None if "train" in dataset.splits else "no train split"


def labels_are_of_its_classes(dataset: Dataset) -> str | None:
    for name, split in dataset.splits.items():
        labels, classes = split.labels, len(dataset.classes)
        if labels is None:
            continue
        if labels.ndim == 2:
            fits = labels.dtype == bool and labels.shape[1] == classes
        elif classes:
            fits = labels.dtype == np.int32 and labels.min(initial=0) >= 0 and labels.max(initial=0) < classes
        else:
            fits = labels.dtype == np.float32 and labels.ndim == 1
        if not fits:
            return f"{name}: labels {labels.dtype}{list(labels.shape)} do not fit {classes} classes"
    return None


def examples_are_of_their_kind_and_stay_the_same(dataset: Dataset) -> str | None:
    for name, split in dataset.splits.items():
        for row in {0, len(split) - 1} if len(split) else ():
            column, kind = split.input[0], split.input[1].kind
            example = split.example(column, row)
            if kind in FITS and not FITS[kind](example):
                return f"{name}, row {row}: expected {kind} {EXPECTED[kind]}, found {_kind(example)}"
            if not np.array_equal(example, split.example(column, row)):
                return f"{name}, row {row}: a different example when fetched again"
    return None


def splits_can_be_sent_to_loader_processes(dataset: Dataset) -> str | None:
    for name, split in dataset.splits.items():
        again, column = pickle.loads(pickle.dumps(split)), split.input[0]
        if len(split) and not np.array_equal(again.example(column, 0), split.example(column, 0)):
            return f"{name}: a pickled copy fetches a different example"
    return None


def its_fingerprint_is_a_sha256(dataset: Dataset) -> str | None:
    valid = isinstance(dataset.fingerprint, str) and re.fullmatch("[0-9a-f]{64}", dataset.fingerprint)
    return None if valid else f"expected 64 hex digits, found {dataset.fingerprint!r}"


PROPERTIES = (
    it_has_a_train_split_and_known_names,
    labels_are_of_its_classes,
    examples_are_of_their_kind_and_stay_the_same,
    splits_can_be_sent_to_loader_processes,
    its_fingerprint_is_a_sha256,
)


def _is_image(example: Any) -> bool:
    return isinstance(example, np.ndarray) and example.dtype == np.uint8 and example.ndim == 3


def _is_text(example: Any) -> bool:
    parts = example if isinstance(example, tuple) else (example,)
    return 1 <= len(parts) <= 2 and all(isinstance(part, str) for part in parts)


def _is_sound(example: Any) -> bool:
    return isinstance(example, np.ndarray) and example.dtype == np.float32 and example.ndim == 1


def _is_series(example: Any) -> bool:
    shaped = isinstance(example, np.ndarray) and example.dtype == np.float32 and example.ndim == 2
    return shaped and bool(np.isfinite(example).all())


def _is_row(example: Any) -> bool:
    return isinstance(example, dict) and all(
        value is None or isinstance(value, float | str) for value in example.values()
    )


FITS = {"image": _is_image, "text": _is_text, "audio": _is_sound, "series": _is_series, "row": _is_row}
EXPECTED = {
    "image": "uint8 [height, width, channels]",
    "text": "of one str or two",
    "audio": "float32 [samples]",
    "series": "finite float32 [length, channels]",
    "row": "{name: float, str or None}",
}


def _kind(example: Any) -> str:
    return f"{example.dtype}{list(example.shape)}" if isinstance(example, np.ndarray) else type(example).__name__
