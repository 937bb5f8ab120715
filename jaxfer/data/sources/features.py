"""Features of frozen backbones, as `jaxfer features` wrote them: rows of numbers of one or several networks.

Features of several backbones side by side under one head are late fusion: a run like any other.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxfer import npz_files
from jaxfer.data.encodings.row import Vectors
from jaxfer.data.lookup import expanded, fingerprint, locate, stamp
from jaxfer.data.split import Array, Dataset, Split
from jaxfer.errors import InputError

SPLITS = ("train", "val", "test")
PLACE = "{split}"
HOW = "write it by `jaxfer features RUN --split=SPLIT --out=FILE.npz`"
SAME = ("weights_sha256", "unit", "pool", "encodings")  # of what `jaxfer features` says of a network in every split


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
      paths: a file for each backbone, with {split} for the split, `resnet_{split}.npz`; a relative one that is absent
        is looked up in the folder that JAXFER_DATA names.

    Raises:
      InputError: no such file or not one of `jaxfer features`, more than one vector per example, splits of other
        weights or inputs than train's, or backbones that did not read the same examples.
    """
    if not paths:
        raise InputError("data source 'features' needs paths; set data.paths=('resnet_{split}.npz',)")
    for path in paths:
        if PLACE not in path:
            raise InputError(f"expected data.paths to contain {PLACE!r}, found {path!r}; put it where the split stands")
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
    train, pattern = locate(path.replace(PLACE, "train"), "features", "paths"), expanded(path, "data.paths")
    if train != Path(str(pattern).replace(PLACE, "train")):
        pattern = Path(os.environ["JAXFER_DATA"]) / path
    others = {split: Path(str(pattern).replace(PLACE, split)) for split in SPLITS[1:]}
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
            widths = [part.values.shape[1] for part in parts]
            columns = tuple(f"{name}_{i}" for name, width in zip(names, widths, strict=True) for i in range(width))
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
    """What the columns of each are called; where two files are called alike, with their place."""
    stems = [Path(path).stem.replace(PLACE, "").strip("_-.") or "network" for path in paths]
    return stems if len({*stems}) == len(stems) else [f"{i}_{stem}" for i, stem in enumerate(stems)]


def _part(file: Path) -> Part:
    try:
        arrays = npz_files.read(file)
        about = json.loads(str(arrays["about"]))
        found = Part(arrays["features"], arrays["row"], arrays["label"], about)
        classes = about["classes"]
    except (ValueError, KeyError, TypeError) as error:
        why = f"no {error}" if isinstance(error, KeyError) else str(error).splitlines()[0]
        raise InputError(f"expected features with labels in {str(file)!r}, found {why}; {HOW}") from None
    values, row, label, _ = found
    if values.ndim != 2:
        shape = ", ".join(map(str, values.shape[1:]))
        raise InputError(
            f"expected a vector for each example in {str(file)!r}, found [{shape}]; write it with --pool=mean"
        )
    if not len(values) or not len(values) == len(row) == len(label):
        sizes = f"features, row and label of {len(values)}, {len(row)} and {len(label)}"
        raise InputError(f"expected as many of each, one or more, in {str(file)!r}, found {sizes}; {HOW}")
    numbers = label.dtype.kind in ("b" if label.ndim == 2 else "iu" if classes else "f")
    if values.dtype.kind != "f" or not numbers or (label.ndim == 2 and label.shape[1] != len(classes)):
        kinds = f"features {values.dtype}, label {label.dtype}{list(label.shape[1:])} of {len(classes)} classes"
        raise InputError(f"expected what `jaxfer features` writes in {str(file)!r}, found {kinds}; {HOW}")
    with np.errstate(over="ignore"):
        values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise InputError(f"expected finite features in {str(file)!r}, found NaN or infinity; look at its network")
    return found._replace(values=values)


def _check_same(files: Sequence[Path], parts: Sequence[Part]) -> None:
    """`InputError` unless all are of the same examples in the same order."""
    for file, part in zip(files[1:], parts[1:], strict=True):
        same = part.about.get("data_sha256") == parts[0].about.get("data_sha256")
        if not same or not np.array_equal(part.row, parts[0].row) or not np.array_equal(part.label, parts[0].label):
            other = f"{str(files[0])!r} and {str(file)!r}"
            raise InputError(
                f"expected features of the same examples in {other}, found others; write both of the same data"
            )


def _check_network(file: Path, part: Part, train: Part) -> None:
    """`InputError` unless it is of the network that train's is of, with the same inputs and labels."""
    for field in SAME:
        if part.about.get(field) != train.about.get(field):
            was, found = (json.dumps(about.get(field))[:80] for about in (train.about, part.about))
            raise InputError(f"expected {field}={was} in {str(file)!r}, as train has it, found {found}; write it again")
    if part.about["classes"] != train.about["classes"] or part.label.shape[1:] != train.label.shape[1:]:
        counts = f"{len(part.about['classes'])} for {len(train.about['classes'])}"
        raise InputError(f"expected the classes of train in {str(file)!r}, found others ({counts}); write it again")
