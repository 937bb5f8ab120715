"""Dataset: splits with random access, and the choices a config makes among them as index lists.

Classes, validation and few-label draws only ever choose rows. The images or texts stay with the source, so runs of
different seeds and label counts share one source and one feature cache (`Split.origin`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxfer.data import image
from jaxfer.data.order import Stream, draw
from jaxfer.errors import InputError, nearest
from jaxfer.registry import SOURCES

Fetch = Callable[[int], Any]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Split:
    """Examples with random access, decoded when asked for.

    Attributes:
      labels: [n] int32 class indices, or float32 targets for regression; [n, classes] bool where an example has a set
        of labels.
      fetch: row -> image, uint8 [h, w, c], or text, a str or a pair; picklable, because loader processes get a copy.
    """

    labels: np.ndarray
    fetch: Fetch

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: np.ndarray) -> Split:
        """The split of these rows, in this order."""
        fetch, origin = self.origin()
        return Split(labels=self.labels[rows], fetch=Subset(fetch, origin[rows]))

    def picture(self, row: int) -> Any:
        """An image before it becomes an array, where the source decodes files (`fetch.picture`); else as fetched."""
        inside = isinstance(self.fetch, Subset)
        fetch, row = (self.fetch.fetch, int(self.fetch.rows[row])) if inside else (self.fetch, row)
        return fetch.picture(row) if hasattr(fetch, "picture") else fetch(row)

    def origin(self) -> tuple[Fetch, np.ndarray]:
        """The source's own fetch and, for each row here, its row there (int64 [n]): the key of a feature cache."""
        if isinstance(self.fetch, Subset):
            return self.fetch.fetch, self.fetch.rows
        return self.fetch, np.arange(len(self))


@dataclass(frozen=True, eq=False, repr=False)
class Subset:
    """Fetches chosen rows of a source."""

    fetch: Fetch
    rows: np.ndarray

    def __call__(self, row: int) -> Any:
        return self.fetch(int(self.rows[row]))


@dataclass(frozen=True, eq=False, repr=False)
class InMemory:
    """Fetches from uint8 images [n, h, w, c]."""

    images: np.ndarray

    def __call__(self, row: int) -> np.ndarray:
        return self.images[row]


@dataclass(frozen=True, kw_only=True, eq=False)
class Dataset:
    """What a source yields, and what `prepare` makes of it.

    Attributes:
      splits: `train` always; `val` and `test` where there are such.
      classes: names in label order; `()` for regression.
      fingerprint: sha256 (hex) of the source's content, kept by `prepare`: `Split.origin` says which rows are in use.
      notes: what a user should know of the files, such as rows left out, a line each.
    """

    splits: Mapping[str, Split]
    classes: tuple[str, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()

    @property
    def multilabel(self) -> bool:
        """Whether an example has a set of labels, not one."""
        return self.splits["train"].labels.ndim == 2


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The fields of `config.data` that every source shares; a source's own are its factory's parameters.

    Attributes:
      source: a module of `jaxfer/data/sources`.
      classes: keep only these, in this order, relabelled 0..k-1; `()` keeps all.
      labels_per_class: that many training examples a class, drawn by the run's seed; 0 for all. Draws of one seed are
        nested: a smaller one is part of a larger one.
      val_per_class: validation examples a class, taken from train; the same ones for every seed and every choice of
        classes. Refused, as `val_fraction` is, where the source has a `val` split of its own.
      val_fraction: the share of each class taken instead where `val_per_class` is 0 (rounded, at least one).
      augment: names in `image.AUGMENTATIONS`, applied in this order to training images; a `crop` that comes first is
        cut out of the images themselves, a later one out of what they were resized to.
      workers: Grain worker processes; 0 for threads of this process.
    """

    source: str = "digits"
    classes: tuple[str, ...] = ()
    labels_per_class: int = 0
    val_per_class: int = 0
    val_fraction: float = 0.1
    augment: tuple[str, ...] = ()
    workers: int = field(default=0, metadata={"identity": False})


def build(config: DataConfig, options: Mapping[str, Any], *, seed: int, with_test: bool) -> Dataset:
    """The source called `config.source` with its own `options`, prepared; each source says when it reads again."""
    known = SOURCES.schema(config.source)
    for name in options:
        if name not in known:
            raise InputError(f"data source {config.source!r} has no option {name!r}{nearest(name, known)}")
    return prepare(SOURCES.make(config.source, **options), config, seed=seed, with_test=with_test)


def prepare(dataset: Dataset, config: DataConfig, *, seed: int, with_test: bool) -> Dataset:
    """Selects classes, takes validation out of train, draws few labels, and seals the test split.

    Args:
      dataset: as the source yields it, with which the result shares its images.
      config: what to choose.
      seed: draws the few labels and nothing else.
      with_test: False removes `test`, so that nothing can be selected on it; True keeps it where there is one.

    Raises:
      InputError: the config asks for classes or counts that are not there or for another `val` than the source's, or
        the source's labels are out of range.
    """
    _check_config(config, dataset)
    names = _chosen(dataset, config)
    splits = {name: _keep(dataset, name, names) for name in dataset.splits if name != "test" or with_test}
    train = splits["train"]
    for who, count in _counts(train, dataset, names).items():
        if not count:
            raise InputError(f"{who} has no training example; add some or choose other data.classes")
    if "val" not in splits:
        splits["val"], train = _take_val(train, config, dataset, names)
    if config.labels_per_class:
        counts = _counts(train, dataset, names)
        who, count = min(counts.items(), key=lambda item: item[1])
        if count < config.labels_per_class:
            wanted = f"data.labels_per_class={config.labels_per_class}; lower it to {count}"
            raise InputError(f"{who} has {count} training examples besides validation, expected {wanted}")
        train = train.take(draw(train.labels, seed=seed, stream=Stream.LABELS, per_class=config.labels_per_class)[0])
    splits["train"] = train
    splits = {name: _relabel(split, dataset, names) for name, split in splits.items()}
    return dataclasses.replace(dataset, classes=names, splits=splits)


def fingerprint(parts: Iterable[str | bytes | np.ndarray]) -> str:
    """sha256 (hex) over strings, bytes, and arrays with their types and shapes."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype.str}{part.shape}".encode())
            part = np.ascontiguousarray(part).tobytes()
        digest.update(part.encode() if isinstance(part, str) else part)
        digest.update(b"\0")
    return digest.hexdigest()


# A file younger than this is read every time: file systems stamp in steps of up to two seconds, so that a second change
# within a step would leave the stamp as it is.
SETTLED = 2e9  # nanoseconds


def stamp(files: Iterable[Path]) -> tuple[tuple[Any, ...], bool]:
    """(what changes when a file does, whether all are old enough for that to hold): a key for what was read of them."""
    stats = [(file.resolve(), file.stat()) for file in files]
    # ctime: a copy may keep mtime
    found = tuple((path, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) for path, stat in stats)
    return found, all(time.time_ns() - stat.st_mtime_ns > SETTLED for _, stat in stats)


def locate(path: str, source: str, option: str = "path") -> Path:
    """`data.path` as given, else under the folder that the environment variable JAXFER_DATA names."""
    if not path:
        raise InputError(f"data source {source!r} needs a {option}; set data.{option}")
    tried = [Path(path).expanduser()]
    if os.environ.get("JAXFER_DATA"):
        tried.append(Path(os.environ["JAXFER_DATA"]) / path)
    for candidate in tried:
        if candidate.exists():
            return candidate
    where = " or ".join(repr(str(candidate)) for candidate in tried)
    fix = "correct it or set JAXFER_DATA to the data's folder"
    raise InputError(f"data.{option} does not exist: expected {where}; {fix}")


def _check_config(config: DataConfig, dataset: Dataset) -> None:
    image.augmentations(config.augment)
    for name in ("labels_per_class", "val_per_class", "workers"):
        if getattr(config, name) < 0:
            raise InputError(f"expected data.{name} >= 0, found {getattr(config, name)}; 0 is the default")
    if not config.val_per_class and not 0 < config.val_fraction < 1:
        raise InputError(f"expected data.val_fraction between 0 and 1, found {config.val_fraction}; 0.1 is the default")
    for name in ("classes", "labels_per_class", "val_per_class"):
        if getattr(config, name) and not dataset.classes:
            raise InputError(f"data.{name}={getattr(config, name)} needs classes, this data has none; remove it")
        if getattr(config, name) and name != "classes" and dataset.multilabel:
            raise InputError(f"data.{name}={getattr(config, name)} needs one class an example, not a set; remove it")
    for name in ("val_per_class", "val_fraction"):
        found, default = getattr(config, name), getattr(DataConfig, name)
        if found != default and "val" in dataset.splits:
            raise InputError(f"data.{name}={found} has no effect: the source has a val split; set it to {default}")


def _chosen(dataset: Dataset, config: DataConfig) -> tuple[str, ...]:
    for name in config.classes:
        if name not in dataset.classes:
            raise InputError(f"unknown class {name!r} in data.classes{nearest(str(name), dataset.classes)}")
        if config.classes.count(name) > 1:
            raise InputError(f"class {name!r} occurs twice in data.classes; name each class once")
    return tuple(config.classes) or dataset.classes


def _keep(dataset: Dataset, name: str, names: tuple[str, ...]) -> Split:
    """The rows of one split that belong to the chosen classes, still with the source's labels."""
    split, top = dataset.splits[name], len(dataset.classes) - 1
    if dataset.multilabel:  # an example with none of the chosen is a negative of each
        return split
    if dataset.classes:
        wrong = split.labels[(split.labels < 0) | (split.labels > top)]
        if len(wrong):
            raise InputError(f"expected labels 0..{top} in split {name!r}, found {wrong[0]}; correct the source")
    if names != dataset.classes:
        kept = [dataset.classes.index(name) for name in names]
        split = split.take(np.flatnonzero(np.isin(split.labels, kept)))
    if not len(split):
        raise InputError(f"split {name!r} has no example of the chosen classes; add some or choose other data.classes")
    return split


def _take_val(train: Split, config: DataConfig, dataset: Dataset, names: tuple[str, ...]) -> tuple[Split, Split]:
    """(val, what is left of train); seed 0, so that every run of a study validates on the same examples."""
    option = "val_per_class" if config.val_per_class else "val_fraction"
    share = {"per_class": config.val_per_class, "fraction": config.val_fraction}
    drawn, rest = draw(train.labels, seed=0, stream=Stream.VAL, **share)
    before, after = _counts(train, dataset, names), _counts(train.take(rest), dataset, names)
    for who, count in after.items():
        if not count:
            taken = f"data.{option}={getattr(config, option)} leaves none of them to train on"
            raise InputError(f"{who} has {before[who]} training examples and {taken}; lower it or add examples")
    return train.take(drawn), train.take(rest)


def _relabel(split: Split, dataset: Dataset, names: tuple[str, ...]) -> Split:
    if not names:
        return split
    if dataset.multilabel:
        columns = [dataset.classes.index(name) for name in names]
        return dataclasses.replace(split, labels=split.labels[:, columns])
    table = np.full(len(dataset.classes), -1, np.int32)
    table[[dataset.classes.index(name) for name in names]] = np.arange(len(names))
    return dataclasses.replace(split, labels=table[split.labels])


def _counts(split: Split, dataset: Dataset, names: tuple[str, ...]) -> dict[str, int]:
    """{what to call a stratum in an error: how many examples it has}."""
    if dataset.multilabel:
        return {"the data": len(split)}
    counts = {f"class {name!r}": int(np.sum(split.labels == dataset.classes.index(name))) for name in names}
    return counts or {"the data": len(split)}
