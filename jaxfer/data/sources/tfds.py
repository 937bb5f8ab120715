"""Data sets prepared by TensorFlow Datasets, read from their ArrayRecord files; no TensorFlow, no download."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer.data.encodings.pixels import verify
from jaxfer.data.encodings.text import texts
from jaxfer.data.lookup import fingerprint, locate, stamp
from jaxfer.data.sources.records import FORMAT, Images, Records, Unparsed, datasets
from jaxfer.data.sources.rows import allowed, judged
from jaxfer.data.split import Array, Dataset, Split
from jaxfer.errors import InputError, nearest

DEFAULTS = {"train": ("train",), "val": ("validation", "val"), "test": ("test",)}
NONE = "none"
CHUNK = 256  # records read at once, some 30 MB of photographs


def source(
    *,
    name: str = "",
    data_dir: str = "",
    train: str = "",
    val: str = "",
    test: str = "",
    image: str = "",
    text: str = "",
    text_pair: str = "",
    label: str = "",
    bad_rows: int | str | None = None,
) -> Dataset:
    """A data set prepared as ArrayRecord, `builder(NAME, file_format="array_record").download_and_prepare()`.

    It prepares nothing, relies on the metadata files and never runs the code that made the data set. Labels,
    texts and the fingerprint come from reading every record of the splits once, whenever a file has changed (the last
    few data sets are kept in this process), so the fingerprint covers every byte; images are decoded when asked for.

    Args:
      name: `name`, `name/config` or `name/config:version`; the newest version there is, unless one is named.
      data_dir: where it was prepared; a relative one that is absent is looked up in the folder that JAXFER_DATA names.
        Empty: TFDS' own (`TFDS_DATA_DIR`, else `~/tensorflow_datasets`).
      train: a split as TFDS writes it: `train`, `train[:90%]`, `train[10%:20%]+train[40%:]`, `train[:500]`. Percents
        are rounded to whole examples. Empty: `train`.
      val: likewise; empty: `validation` where there is one; `none`: leave it out, and draw from `train`.
      test: likewise; empty: `test` where there is one; `none`: leave it out.
      image: the feature with the images; empty: the supervised input, else the only Image.
      text: the feature with the texts, in place of images; empty: the supervised input, else the only Text.
      text_pair: the feature with the second texts.
      label: a ClassLabel, a Sequence of them (a set of labels), or a number (regression); empty: the supervised label,
        else the only ClassLabel.
      bad_rows: number of records that may be left out, with a note, since they can't be parsed, hold no image or one
        that is cut short, or a text that is not UTF-8; `skip`: any number.

    Raises:
      InputError: TFDS is not installed, the data set is not prepared as ArrayRecord, no such split or feature, splits
        that share examples, files that can't be read, or more bad records than allowed.
    """
    if not name:
        raise InputError("data source 'tfds' needs the name of a data set; set data.name")
    limit = allowed(bad_rows)
    builder = _builder(name, data_dir)
    fields = _fields(builder.info, image, text, text_pair, label)
    specs = _specs(builder.info, {"train": train, "val": val, "test": test})
    files = sorted(file for file in Path(builder.data_dir).iterdir() if file.is_file())
    version, settled = stamp(files)
    read = _read if settled else _read.__wrapped__
    dataset = read(str(builder.data_dir), version, builder.info.full_name, tuple(specs.items()), fields)
    total = sum(map(len, dataset.splits.values())) + len(dataset.bad)
    judgement = judged(dataset.bad, total, Path(builder.data_dir), limit, "records", "prepare it again")
    named = {word for spec in specs.values() for word in re.findall(r"[\w-]+", spec)}
    left = [f"{name} ({split.num_examples:,})" for name, split in builder.info.splits.items() if name not in named]
    fix = "data.train, data.val and data.test choose the splits to read"
    notes = (
        (f"{len(left)} {'split' if len(left) == 1 else 'splits'} not read: {', '.join(left)}; {fix}",) if left else ()
    )
    return dataclasses.replace(dataset, notes=(*judgement, *notes))


@dataclass(frozen=True)
class _Fields:
    """The features in use: an image, or a text and optionally its partner; and the label, with its kind."""

    image: str
    text: str
    pair: str
    label: str
    kind: str
    classes: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.image, self.text, self.pair, self.label)))


def _builder(name: str, data_dir: str) -> Any:
    """The builder of a prepared data set, from its files."""
    tfds = datasets()
    folder = str(locate(data_dir, "tfds", "data_dir")) if data_dir else None
    where = {"data_dir": folder} if folder else {}
    prepare = f"tensorflow_datasets.builder({name!r}, file_format={FORMAT!r}{_argument(folder)}).download_and_prepare()"
    try:
        builder = tfds.core.read_only_builder.builder_from_files(name, **where)
    except tfds.core.DatasetNotFoundError:
        places = [folder] if folder else list(map(str, tfds.core.utils.file_utils.list_data_dirs()))
        available = {entry.name for place in places if Path(place).is_dir() for entry in Path(place).iterdir()}
        raise InputError(
            f"data.name={name!r} is not prepared in {' or '.join(map(repr, places))}"
            f"{nearest(name, available) if available else ''}; prepare it with {prepare}, which needs TensorFlow only "
            "for images that come as arrays"
        ) from None
    except (ValueError, TypeError, RuntimeError, ImportError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"data.name={name!r} can't be read ({reason}); expected NAME, NAME/CONFIG or "
            "NAME/CONFIG:VERSION of a data set in one data_dir"
        ) from None
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if FORMAT not in formats:
        shown = ", ".join(sorted(formats)) or "none"
        raise InputError(
            f"expected {builder.info.full_name} as {FORMAT} in {str(builder.data_dir)!r}, found {shown}; remove it and "
            f"prepare it with {prepare}"
        )
    return builder


def _argument(folder: str | None) -> str:
    return f", data_dir={folder!r}" if folder else ""


def _fields(info: Any, image: str, text: str, text_pair: str, label: str) -> _Fields:
    """The features to use; `InputError` if that is ambiguous or their types don't fit."""
    features, kinds = info.features, datasets().features
    if image and (text or text_pair):
        raise InputError("data.image and data.text are both set: a model reads one of the two; remove one")
    for option, name in (("image", image), ("text", text), ("text_pair", text_pair), ("label", label)):
        if name and name not in features:
            raise InputError(f"data.{option}={name!r} is not a feature of {info.full_name}{nearest(name, features)}")
    supervised = info.supervised_keys if len(info.supervised_keys or ()) == 2 else (None, None)

    def only(kind: Any, first: Any = None) -> str:
        """The supervised feature if it has this type, else the only feature that does; else ''."""
        names = [name for name in features if isinstance(features[name], kind)]
        return first if first in names else names[0] if len(names) == 1 else ""

    if not image and not text:
        image = only(kinds.Image, supervised[0]) if not text_pair else ""
        text = only(kinds.Text, supervised[0]) if not image else ""
        if not image and not text:
            raise InputError(
                f"{info.full_name} has no single Image or Text feature; set {_choices('image', info)} or data.text"
            )
    label = label or (supervised[1] if supervised[1] in features else "") or only(kinds.ClassLabel)
    if not label:
        raise InputError(f"{info.full_name} does not state which feature is the label; set {_choices('label', info)}")
    for option, name, kind in (("image", image, "Image"), ("text", text, "Text"), ("text_pair", text_pair, "Text")):
        if name and not isinstance(features[name], getattr(kinds, kind)):
            actual = type(features[name]).__name__
            raise InputError(f"data.{option}={name!r}: expected a feature of type {kind}, found {actual}; name another")
    if image and features[image].np_dtype != np.uint8:
        raise InputError(f"data.image={image!r}: expected 8-bit images, found {features[image].np_dtype}; name another")
    return _Fields(image, text, text_pair, label, *_label(label, features[label], kinds))


def _choices(option: str, info: Any) -> str:
    return f"data.{option} to one of {', '.join(map(repr, sorted(info.features)))}"


def _label(name: str, feature: Any, kinds: Any) -> tuple[str, tuple[str, ...]]:
    """(`class`, `labels` or `value`; the names of the classes)."""
    if isinstance(feature, kinds.ClassLabel):
        return "class", tuple(feature.names)
    if isinstance(feature, kinds.Sequence) and isinstance(feature.feature, kinds.ClassLabel):
        return "labels", tuple(feature.feature.names)
    if isinstance(feature, kinds.Tensor) and feature.shape == () and feature.np_dtype.kind in "iuf":
        return "value", ()
    actual = type(feature).__name__
    raise InputError(f"data.label={name!r}: expected a ClassLabel, a Sequence of them or a number, found {actual}")


def _specs(info: Any, requested: Mapping[str, str]) -> dict[str, str]:
    """{split: TFDS split expression}, checked: each has examples, and no example is in two."""
    specs = {}
    for split, spec in requested.items():
        default = next((name for name in DEFAULTS[split] if name in info.splits), NONE)
        specs[split] = spec or default
    if specs["train"] == NONE:
        raise InputError(f"{info.full_name} has no train split; set data.train to one of {', '.join(info.splits)}")
    specs = {split: spec for split, spec in specs.items() if spec != NONE}
    parts = {split: _parts(info, split, spec) for split, spec in specs.items()}
    for split, other in itertools.combinations_with_replacement(parts, 2):
        once = split == other
        pairs = itertools.combinations(parts[split], 2) if once else itertools.product(parts[split], parts[other])
        shared = sum(max(0, min(a[2], b[2]) - max(a[1], b[1])) for a, b in pairs if a[0] == b[0])
        if shared:
            overlap = f"names {shared} examples twice" if once else f"and data.{other} share {shared} examples"
            raise InputError(f"data.{split}={specs[split]!r} {overlap}; slice them apart, or set one to {NONE!r}")
    return specs


def _parts(info: Any, split: str, spec: str) -> list[tuple[str, int, int]]:
    """(file, first record, one after the last) of each piece."""
    try:
        parts = [(part.filename, part.skip, part.skip + part.take) for part in info.splits[spec].file_instructions]
    except (ValueError, KeyError, AssertionError) as error:
        reason = str(error).splitlines()[-1] if str(error) else type(error).__name__
        sizes = ", ".join(f"{name} ({split_info.num_examples})" for name, split_info in info.splits.items())
        raise InputError(
            f"data.{split}={spec!r} is not a split of {info.full_name} ({reason}); its splits: {sizes}"
        ) from None
    if not parts or any(begin >= end for _, begin, end in parts):
        raise InputError(f"data.{split}={spec!r} holds no example of {info.full_name}; widen it, or set it to {NONE!r}")
    return parts


@functools.lru_cache(maxsize=4)
def _read(folder: str, version: tuple, name: str, specs: tuple[tuple[str, str], ...], fields: _Fields) -> Dataset:
    """The data set in `folder`; `version` is the cache key, which changes with the files."""
    splits, parts, bad = {}, [name, *fields.names, *fields.classes], []
    for split, spec in specs:
        splits[split], content, lines = _split(folder, spec, fields)
        parts += [split, content]
        bad += lines
    digest = fingerprint(parts)
    return Dataset(splits=splits, classes=fields.classes, fingerprint=digest, provenance=dict(specs), bad=tuple(bad))


def _split(folder: str, spec: str, fields: _Fields) -> tuple[Split, bytes, list[str]]:
    """(the split of usable records, sha256 of all of them, a line on each other one).

    Reads each record and image header once, so that a bad one is found before the run.
    """
    records, digest = Records(folder, spec, fields.names), hashlib.sha256()
    labels, first, second, kept, bad = [], [], [], [], []
    for begin in range(0, len(records), CHUNK):
        rows = range(begin, min(begin + CHUNK, len(records)))
        for row, example in zip(rows, records.read(rows), strict=True):
            digest.update(len(example).to_bytes(8, "little") + example)
            try:
                values = records.parse(example)
                if fields.image:
                    verify(values[fields.image], f"record {row} of {spec!r}")
                else:
                    pair = [values[name].decode() for name in (fields.text, fields.pair) if name]
            except InputError as error:  # of `verify`, which names the record and a fix
                bad.append(str(error).rpartition("; ")[0])
            except UnicodeDecodeError as error:
                bad.append(f"record {row} of {spec!r} is not UTF-8 ({error.reason})")
            except Unparsed as error:
                bad.append(f"record {row} of {spec!r} can't be parsed ({error})")
            else:
                kept.append(row)
                labels.append(values[fields.label])
                if not fields.image:
                    first.append(pair[0])
                    second += pair[1:]
    label = _array(labels, fields, spec)
    kind = "classes" if fields.kind == "labels" else fields.kind
    if not fields.image:
        text = texts(tuple(first), tuple(second) if fields.pair else None)
        return Split.whole(text=text, label=Array(label, kind)), digest.digest(), bad
    whole = np.zeros((len(records), *label.shape[1:]), label.dtype)
    whole[kept] = label
    split = Split.whole(image=Images(Records(folder, spec, (fields.image,))), label=Array(whole, kind))
    return split.take(np.asarray(kept, np.int64)), digest.digest(), bad


def _array(labels: list[Any], fields: _Fields, spec: str) -> np.ndarray:
    if fields.kind == "class":
        return np.asarray(labels, np.int32)
    if fields.kind == "labels":
        sets = np.zeros((len(labels), len(fields.classes)), bool)
        for row, members in enumerate(labels):
            sets[row, np.asarray(members, np.int64)] = True
        return sets
    values = np.asarray(labels, np.float32)
    if not np.isfinite(values).all():
        raise InputError(f"expected finite targets of {spec!r}, found NaN or infinity; name another data.label")
    return values
