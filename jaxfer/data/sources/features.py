"""What frozen backbones say of each example, as `jaxfer features` wrote it: rows of numbers of one or several networks.

Features of several backbones side by side under one head are late fusion: a run like any other.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxfer import npz_files
from jaxfer.data.encodings.row import Vectors
from jaxfer.data.lookup import fingerprint, locate, stamp
from jaxfer.data.split import Array, Dataset, Split
from jaxfer.errors import InputError

SPLITS = ("train", "val", "test")
PLACE = "{split}"
HOW = "write it by `jaxfer features RUN --split=train --out=FILE.npz`"


class Part(NamedTuple):
    """One backbone's features of one split.

    Attributes:
      values: float32 [n, width].
      row: int64 [n], rows of the data they are of.
      label: of each, int or float.
      about: as `jaxfer features` has it.
    """

    values: np.ndarray
    row: np.ndarray
    label: np.ndarray
    about: Mapping[str, Any]


def source(*, paths: tuple[str, ...] = ()) -> Dataset:
    """Reads the split `train`, and `val` and `test` where there are files of them.

    The columns of a row are called after the files: `resnet_0`, `resnet_1`, ... of `resnet_{split}.npz`.

    Args:
      paths: a file for each backbone, with {split} for the split in its name, `resnet_{split}.npz`; a relative one that
        is absent is looked up in the folder that JAXFER_DATA names.

    Raises:
      InputError: no such file or not one of `jaxfer features`, more than a vector for an example, splits of other
        weights than train's, or backbones that did not read the same examples.
    """
    if not paths:
        raise InputError("data source 'features' needs paths; set data.paths=('resnet_{split}.npz',)")
    for path in paths:
        if PLACE not in Path(path).name:
            raise InputError(f"expected data.paths to contain {PLACE!r} in a file's name, found {path!r}")
        if paths.count(path) > 1:
            raise InputError(f"data.paths: {path!r} occurs twice; name each backbone once")
    files = {path: _files(path) for path in paths}
    for split in SPLITS:
        having = [path for path in paths if split in files[path]]
        if having and len(having) < len(paths):
            lacking = next(path for path in paths if path not in having)
            raise InputError(f"{split} has {having[0]!r} and not {lacking!r}; write both, or remove the one")
    splits = tuple(split for split in SPLITS if split in files[paths[0]])
    places = tuple(tuple(files[path][split] for path in paths) for split in splits)
    version, settled = stamp([file for row in places for file in row])
    return (_read if settled else _read.__wrapped__)(paths, splits, places, version)


def _files(path: str) -> dict[str, Path]:
    """{split: file}; that of train must be there, and says in which folder the others are."""
    train = locate(path.replace(PLACE, "train"), "features", "paths")
    others = {split: train.with_name(Path(path).name.replace(PLACE, split)) for split in SPLITS[1:]}
    return {"train": train, **{split: file for split, file in others.items() if file.is_file()}}


@functools.lru_cache(maxsize=4)
def _read(
    paths: tuple[str, ...], splits: tuple[str, ...], places: tuple[tuple[Path, ...], ...], version: tuple[Any, ...]
) -> Dataset:
    """The dataset in `places`, of each split the file of each path; `version` changes with the files."""
    names, made, notes = _names(paths), {}, []
    for split, files in zip(splits, places, strict=True):
        parts = [_part(file) for file in files]
        _check_same(files, parts)
        if split == "train":
            first = parts
            columns = tuple(f"{name}_{i}" for name, part in zip(names, parts, strict=True) for i in range(_width(part)))
        for file, part, of_train in zip(files, parts, first, strict=True):
            _check_network(file, part, of_train)
            if part.about.get("split") != split:
                notes.append(f"{file.name} is of the split {part.about.get('split')!r}, and is read as {split}")
        made[split] = parts
    classes = tuple(map(str, first[0].about["classes"]))
    kind, dtype = ("class", np.int32) if classes else ("value", np.float32)
    if first[0].label.ndim == 2:
        kind, dtype = "classes", bool
    values = {split: np.concatenate([part.values for part in parts], 1) for split, parts in made.items()}
    labels = {split: parts[0].label.astype(dtype) for split, parts in made.items()}
    content = [part for split in made for part in (split, values[split], labels[split])]
    return Dataset(
        splits={
            split: Split.whole(row=Vectors(columns, values[split]), label=Array(labels[split], kind)) for split in made
        },
        classes=classes,
        fingerprint=fingerprint([*classes, *columns, *content]),
        notes=tuple(notes),
        provenance={split: ", ".join(file.name for file in files) for split, files in zip(splits, places, strict=True)},
    )


def _names(paths: Sequence[str]) -> list[str]:
    """What the columns of each are called; where two files would be called alike, with their place."""
    stems = [Path(path).stem.replace(PLACE, "").strip("_-.") or f"network{i}" for i, path in enumerate(paths)]
    return [stem if stems.count(stem) == 1 else f"{stem}{i}" for i, stem in enumerate(stems)]


def _width(part: Part) -> int:
    return part.values.shape[1]


def _part(file: Path) -> Part:
    try:
        arrays = npz_files.read(file)
        about = json.loads(str(arrays["about"]))
        values, row = arrays["features"], arrays["row"]
    except (ValueError, KeyError) as error:
        why = f"no array {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise InputError(f"expected features in {str(file)!r}, found {why}; {HOW}") from None
    if "label" not in arrays:
        raise InputError(f"expected labels in {str(file)!r}, found none; a head is trained on them")
    if values.ndim != 2:
        shape = ", ".join(map(str, values.shape[1:]))
        raise InputError(
            f"expected a vector of each example in {str(file)!r}, found [{shape}]; write it with --pool=mean"
        )
    if not len(values):
        raise InputError(f"expected examples in {str(file)!r}, found none; {HOW}")
    if not np.isfinite(values).all():
        raise InputError(f"expected finite features in {str(file)!r}, found NaN or infinity; look at its network")
    return Part(values.astype(np.float32), row, arrays["label"], about)


def _check_same(files: Sequence[Path], parts: Sequence[Part]) -> None:
    """`InputError` unless all are of the same examples in the same order."""
    for file, part in zip(files[1:], parts[1:], strict=True):
        same = part.about.get("data_sha256") == parts[0].about.get("data_sha256")
        if not same or not np.array_equal(part.row, parts[0].row) or not np.array_equal(part.label, parts[0].label):
            other = f"{str(files[0])!r} and {str(file)!r}"
            raise InputError(
                f"expected features of the same examples in {other}, found others; write both from one data"
            )


def _check_network(file: Path, part: Part, train: Part) -> None:
    """`InputError` unless it is of the network that train's is of."""
    for field in ("weights_sha256", "unit", "pool", "classes"):
        if part.about.get(field) != train.about.get(field):
            was, found = train.about.get(field), part.about.get(field)
            raise InputError(
                f"expected {field}={was!r} in {str(file)!r}, as train has it, found {found!r}; write it again"
            )
