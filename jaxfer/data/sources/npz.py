"""Images or series in one .npz file: a pair of arrays for each split."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from jaxfer import npz_files
from jaxfer.data.lookup import fingerprint, locate, stamp
from jaxfer.data.split import Array, Dataset, Split
from jaxfer.errors import InputError, nearest

SERIES = "{split}_series"
# The layouts of jaxfer, MedMNIST and Keras, and of series.
LAYOUTS = (
    ("{split}_image", "{split}_label"),
    ("{split}_images", "{split}_labels"),
    ("x_{split}", "y_{split}"),
    (SERIES, "{split}_label"),
)
TARGETS = ("class", "value")


def source(*, path: str = "", image_key: str = "", label_key: str = "", target: str = "class") -> Dataset:
    """Reads `train` and, where present, `val` and `test`; the last few files are kept in memory until they change.

    Args:
      path: the file; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
      image_key: pattern of the image arrays' names, such as `{split}_image`; their values are uint8 [n, h, w] or
        [n, h, w, c]. Empty: `LAYOUTS` are tried in order. Arrays called `{split}_series` hold finite float [n, length]
        or [n, length, channels], in any unit.
      label_key: pattern of the labels' names; [n] or [n, 1].
      target: `class` for integer labels, whose sorted training values become the classes; `value` for regression.

    Raises:
      InputError: no such file, not an .npz, keys missing, or arrays of other types, shapes or lengths.
    """
    if target not in TARGETS:
        raise InputError(f"unknown data.target {target!r}{nearest(str(target), TARGETS)}")
    if bool(image_key) != bool(label_key):
        raise InputError("data.image_key and data.label_key go together: set both or neither")
    for name, pattern in (("image_key", image_key), ("label_key", label_key)):
        if pattern and "{split}" not in pattern:
            raise InputError(f"expected data.{name} to contain '{{split}}', found {pattern!r}")
    file = locate(path, "npz")
    version, settled = stamp([file])
    load = _load if settled else _load.__wrapped__
    return load(file, version, ((image_key, label_key),) if image_key else LAYOUTS, target)


@functools.lru_cache(maxsize=4)
def _load(file: Path, version: tuple, layouts: tuple[tuple[str, str], ...], target: str) -> Dataset:
    """The dataset in `file`; `version` is the cache key, which changes with the file."""
    arrays = _read(file)
    layout = _layout(arrays, file, layouts)
    pairs = {split: _pair(arrays, file, split, layout) for split in ("train", "val", "test")}
    pairs = {split: pair for split, pair in pairs.items() if pair is not None}
    classes, labels = _classes(pairs, file) if target == "class" else ((), _values(pairs, file))
    kind = _kind(layout)
    splits = {
        name: Split.whole(**{kind: Array(pairs[name][0], kind), "label": Array(labels[name], target)}) for name in pairs
    }
    parts = [part for name in pairs for part in (name, pairs[name][0], labels[name])]
    provenance = {name: ", ".join(key.replace("{split}", name) for key in layout) for name in pairs}
    content, read = fingerprint([*classes, *parts]), {key.replace("{split}", name) for name in pairs for key in layout}
    left = sorted(set(arrays) - read)
    count = f"{len(left)} {'array' if len(left) == 1 else 'arrays'} not read"
    shown = ", ".join(left[:6]) + (", ..." if len(left) > 6 else "")
    notes = (f"{count} ({shown}); data.image_key and data.label_key choose the arrays to read",) if left else ()
    return Dataset(splits=splits, classes=classes, fingerprint=content, notes=notes, provenance=provenance)


def _read(file: Path) -> dict[str, np.ndarray]:
    try:
        return npz_files.read(file)
    except ValueError as error:
        raise InputError(f"expected an .npz of plain arrays, found {str(file)!r} ({error}); use np.savez") from None


def _layout(arrays: dict[str, np.ndarray], file: Path, layouts: tuple[tuple[str, str], ...]) -> tuple[str, str]:
    for layout in layouts:
        if all(key.replace("{split}", "train") in arrays for key in layout):
            return layout
    wanted = " or ".join("/".join(key.replace("{split}", "train") for key in layout) for layout in layouts)
    names = ", ".join(sorted(arrays)) or "none"
    raise InputError(f"expected arrays {wanted} in {str(file)!r}, found {names}; set data.image_key and data.label_key")


def _kind(layout: tuple[str, str]) -> str:
    return "series" if layout[0] == SERIES else "image"


def _pair(
    arrays: dict[str, np.ndarray], file: Path, split: str, layout: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Images [n, h, w, c] or series [n, length, channels], and raw labels [n] of one split; None if it has neither."""
    kind = _kind(layout)
    image_key, label_key = (key.replace("{split}", split) for key in layout)
    present = [key for key in (image_key, label_key) if key in arrays]
    if not present:
        return None
    if len(present) == 1:
        raise InputError(f"expected {image_key} and {label_key} in {str(file)!r}, found {present[0]}; add the other")
    inputs = (_series if kind == "series" else _images)(arrays[image_key], image_key, file)
    labels = arrays[label_key]
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != inputs.shape[:1]:
        mismatch = f"{list(labels.shape)}; store one label per {kind}"
        raise InputError(f"expected {label_key} to have shape [{len(inputs)}] as {image_key} has, found {mismatch}")
    return inputs, labels


def _images(images: np.ndarray, key: str, file: Path) -> np.ndarray:
    """uint8 [n, h, w, c]."""
    if images.dtype != np.uint8:
        raise InputError(f"expected {key} of {str(file)!r} to be uint8, found {images.dtype}; scale it to 0..255")
    if not images.size or not (images.ndim == 3 or (images.ndim == 4 and images.shape[3] <= 4)):
        raise InputError(f"expected {key} to be [n, h, w(, 1 to 4)], found {list(images.shape)}; reshape it")
    return images if images.ndim == 4 else images[..., None]


def _series(series: np.ndarray, key: str, file: Path) -> np.ndarray:
    """float32 [n, length, channels], all finite."""
    if series.dtype.kind != "f":
        fix = "store it as float32"
        raise InputError(f"expected {key} of {str(file)!r} to be of floats, found {series.dtype}; {fix}")
    if not series.size or series.ndim not in (2, 3):
        raise InputError(f"expected {key} to be [n, length(, channels)], found {list(series.shape)}; reshape it")
    with np.errstate(over="ignore"):
        values = series.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(values.reshape(len(values), -1)).all(1))
    if len(bad):
        problem = "numbers beyond float32" if np.isfinite(series).all() else "NaN or infinity"
        some = f"{len(bad)} of {len(series)}, the first is {bad[0]}"
        raise InputError(f"expected finite {key} of {str(file)!r}, found {problem} in {some}; fill in or remove these")
    return values if values.ndim == 3 else values[..., None]


def _classes(pairs: dict[str, tuple], file: Path) -> tuple[tuple[str, ...], dict[str, np.ndarray]]:
    for split, (_, labels) in pairs.items():
        if not np.issubdtype(labels.dtype, np.integer):
            fix = "store class numbers, or set data.target='value' for regression"
            raise InputError(f"expected integer labels of {split} in {str(file)!r}, found {labels.dtype}; {fix}")
    values = np.unique(pairs["train"][1])
    for split, (_, labels) in pairs.items():
        unknown = np.setdiff1d(labels, values)
        if len(unknown):
            fix = "remove its examples or add some to train"
            raise InputError(f"expected the labels of train, found {unknown[0]} in {split} of {str(file)!r}; {fix}")
    classes = tuple(str(value) for value in values)
    return classes, {split: np.searchsorted(values, labels).astype(np.int32) for split, (_, labels) in pairs.items()}


def _values(pairs: dict[str, tuple], file: Path) -> dict[str, np.ndarray]:
    targets = {}
    for split, (_, labels) in pairs.items():
        with np.errstate(over="ignore"):
            targets[split] = labels.astype(np.float32) if labels.dtype.kind in "iuf" else None
        if targets[split] is None or not np.isfinite(targets[split]).all():
            problem = labels.dtype if targets[split] is None else "NaN or infinity"
            problem = "numbers beyond float32" if targets[split] is not None and np.isfinite(labels).all() else problem
            raise InputError(f"expected finite targets of {split} in {str(file)!r}, found {problem}; clean them")
    return targets
