"""Prepares a Dataset: applies a config's choices of classes, validation and labels as index lists.

Classes, validation and few-label draws only choose rows. The columns stay with the source, so runs with different seeds
and label counts share one source and one feature cache.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxfer.data import held_out
from jaxfer.data.corruptions import Corruption, corrupted
from jaxfer.data.encodings.augment import canonical
from jaxfer.data.order import SAMPLINGS, Repeated, Sampler, Stream, draw
from jaxfer.data.split import INPUTS, Array, Dataset, Split
from jaxfer.errors import InputError, nearest
from jaxfer.registry import SOURCES


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The fields of `config.data` that every source shares; a source's own are its factory's parameters.

    Attributes:
      source: a module of `jaxfer/data/sources`.
      classes: keep only these, in this order, relabelled 0..k-1; `()` keeps all.
      labels_per_class: training examples per class, drawn by the run's seed; 0 for all. Draws of one seed are nested:
        a smaller one is part of a larger one.
      labels: labelled training examples in all instead, drawn whatever their labels and nested likewise; 0 for all.
        With either, a stage whose task reads no labels still trains on every training example.
      val_per_class: validation examples per class, taken from train; the same ones for every seed and every choice of
        classes. Refused, as `val_fraction` is, where the source has a `val` split of its own.
      val_fraction: the share of each class taken instead where `val_per_class` is 0 (rounded, at least one).
      val_by: `group` takes whole groups instead, in random order until they hold `val_fraction` of the examples; `time`
        the last ones. The source reads the column (its options `group` and `time`); empty: a random draw.
      val_groups: take these groups instead.
      folds: take one of so many folds instead, equal shares of each class, or of whole groups with `val_by=group`.
      fold: which one, from 0.
      augment: names in `AUGMENTATIONS`, with options where wanted (`randaugment(ops=2, magnitude=9)`), applied in this
        order to training examples; a leading crop is cut out of the original images, a later one out of resized ones.
      corrupt: a corruption of every split's inputs, `NAME` or `NAME:SEVERITY` (`jaxfer/data/corruptions`); empty: none.
      workers: Grain worker processes; 0 for threads of this process.
      sampling: epochs with as many examples of each class (`order.Sampler`): `oversample`, `undersample` or `balanced`,
        in batches too. Empty: each example once in an epoch. A stage whose task reads no labels has those epochs.
      sampling_by: the column whose values take the place of classes, such as `group`; it may be of any data.
      repeats: repeated augmentation (`order.Repeated`): an example comes so many times in a row, each time augmented
        anew; 0: once.
    """

    source: str = "digits"
    classes: tuple[str, ...] = ()
    labels_per_class: int = 0
    labels: int = 0
    val_per_class: int = 0
    val_fraction: float = 0.1
    val_by: str = ""
    val_groups: tuple[str, ...] = ()
    folds: int = 0
    fold: int = 0
    augment: tuple[str, ...] = ()
    workers: int = field(default=0, metadata={"identity": False})
    sampling: str = ""
    sampling_by: str = ""
    repeats: int = 0
    corrupt: str = ""

    def __post_init__(self) -> None:
        # Two spellings of the same augmentation are one experiment.
        object.__setattr__(self, "augment", canonical(self.augment))
        object.__setattr__(self, "corrupt", str(Corruption.of(self.corrupt)) if self.corrupt else "")

    def to_dict(self) -> dict[str, Any]:
        """{field: value}; without those in `NEWER` that are not set, as before there were such fields."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value or name not in NEWER}


# Fields that old runs don't have.
NEWER = ("labels", "val_by", "val_groups", "folds", "fold", "sampling", "sampling_by", "repeats", "corrupt")


def build(config: DataConfig, options: Mapping[str, Any], *, seed: int, with_test: bool) -> Dataset:
    """The source called `config.source` with its own `options`, prepared."""
    options = SOURCES.complete(config.source, options, "config.data")
    return prepare(made(config.source, options), config, seed=seed, with_test=with_test)


def made(source: str, options: Mapping[str, Any]) -> Dataset:
    """A source with these options; each says when it reads its files again."""
    if _OPEN is None:
        return SOURCES.make(source, **options)
    key = repr((source, sorted(options.items())))
    if key not in _OPEN:
        _OPEN[key] = SOURCES.make(source, **options)
    return _OPEN[key]


_OPEN: dict[str, Dataset] | None = None


@contextlib.contextmanager
def opened_once() -> Iterator[None]:
    """Within it, equal sources are opened once: runs on the same data share one look at their files."""
    global _OPEN
    before, _OPEN = _OPEN, {} if _OPEN is None else _OPEN
    try:
        yield
    finally:
        _OPEN = before


def prepare(dataset: Dataset, config: DataConfig, *, seed: int, with_test: bool) -> Dataset:
    """Selects classes, takes validation out of train, draws few labels, and seals the test split.

    Args:
      dataset: as the source yields it; the result shares its images.
      config: what to choose.
      seed: draws the few labels and nothing else.
      with_test: False removes `test`, so that nothing can be selected on it; True keeps it, if the source has one.

    Raises:
      InputError: the config asks for missing classes, for too many examples, or for another `val` than the source's;
        or the source's labels are out of range.
    """
    dataset = corrupted(dataset, config.corrupt) if config.corrupt else dataset
    _check_config(config, dataset)
    names = _chosen(dataset, config)
    splits = {name: _keep(dataset, name, names) for name in dataset.splits if name != "test" or with_test}
    sealed = None if with_test or "test" not in dataset.splits else _blanked(dataset, names)
    train, notes, provenance = splits["train"], dataset.notes, dict(dataset.provenance)
    if len(names) < len(dataset.classes):
        left = f"{len(train):,} of {len(dataset.splits['train']):,} training examples"
        notes = (*notes, f"data.classes keeps {len(names):,} of {len(dataset.classes):,} classes, {left}")
    for who, count in _counts(train, dataset, names).items():
        if not count:
            raise InputError(f"{who} has no training example; add some or choose other data.classes")
    if "val" not in splits:
        splits["val"], train = _take_val(train, config, dataset, names)
        provenance["val"] = f"drawn from train: {_how(config)}"
        notes = (*notes, *_unvalidated(splits["val"], config, dataset, names))
    notes = (*notes, *held_out.overlaps({**dataset.splits, "train": train, "val": splits["val"]}))
    pool = None
    if config.labels_per_class or config.labels:
        pool, (train, how) = train.sealed(), _few(train, config, dataset, names, seed)
        drawn = f"drawn from {len(pool):,}: {how}"
        provenance["train"] = "; ".join(filter(None, (provenance.get("train"), drawn)))
        notes = (*notes, *_absent(train, dataset, names, how))
    splits["train"] = train
    splits = {name: relabelled(split, dataset, names) for name, split in splits.items()}
    return dataclasses.replace(
        dataset, classes=names, splits=splits, notes=notes, provenance=provenance, sealed=sealed, pool=pool
    )


def _check_config(config: DataConfig, dataset: Dataset) -> None:
    held_out.check(config)
    for name in ("labels_per_class", "labels", "val_per_class", "workers"):
        if getattr(config, name) < 0:
            raise InputError(f"expected data.{name} >= 0, found {getattr(config, name)}; 0 is the default")
    if not config.val_per_class and not 0 < config.val_fraction < 1:
        raise InputError(f"expected data.val_fraction between 0 and 1, found {config.val_fraction}; 0.1 is the default")
    for name in ("classes", "labels_per_class", "val_per_class"):
        if getattr(config, name) and (not dataset.classes or dataset.splits["train"].labels is None):
            raise InputError(f"data.{name}={getattr(config, name)} needs classes, but this data has none; remove it")
        if getattr(config, name) and name != "classes" and dataset.multilabel:
            raise InputError(f"data.{name}={getattr(config, name)} needs one class per example, not a set; remove it")
    if config.labels and config.labels_per_class:
        both = f"data.labels={config.labels} and data.labels_per_class={config.labels_per_class}"
        raise InputError(f"expected one number of labels, found {both}; set one of the two to 0")
    if config.labels and dataset.splits["train"].unlabelled:
        raise InputError(f"data.labels={config.labels} needs labels, but this data has none; remove it")
    for name in ("val_per_class", "val_fraction", "val_by", "val_groups", "folds"):
        value, default = getattr(config, name), getattr(DataConfig, name)
        if value != default and "val" in dataset.splits:
            shown = default if isinstance(default, int | float) else repr(default)
            raise InputError(f"data.{name}={value} has no effect: the source has a val split; set it to {shown}")
    for name in ("val_per_class", "val_fraction") if config.folds or config.val_groups else ("val_per_class",):
        value, default = getattr(config, name), getattr(DataConfig, name)
        if value != default and (how := held_out.described(config)):
            raise InputError(f"data.{name}={value} has no effect beside {how}; set it to {default}")
    _check_sampling(config, dataset.splits["train"])


def _check_sampling(config: DataConfig, train: Split) -> None:
    known, by = ", ".join(SAMPLINGS), config.sampling_by
    if config.repeats and (config.repeats < 2 or not config.augment):
        found = f"found {config.repeats}" + ("" if config.augment else " and no data.augment")
        raise InputError(f"data.repeats: expected at least 2, or 0, for examples that are augmented, {found}")
    if config.sampling and config.sampling not in SAMPLINGS:
        raise InputError(f"unknown data.sampling {config.sampling!r}{nearest(config.sampling, SAMPLINGS)}")
    if by and not config.sampling:
        raise InputError(f"data.sampling_by={by} has no effect without data.sampling; set that to one of {known}")
    if by:
        targets = {name: column for name, column in train.columns.items() if column.kind not in INPUTS}
        if by not in targets:
            raise InputError(f"data.sampling_by: the data has no column {by!r} beside its inputs{nearest(by, targets)}")
        if np.ndim(train.example(by, 0)):
            kind = targets[by].kind
            raise InputError(f"data.sampling_by: expected one value per example, found {by!r}, {kind}; name another")
    elif config.sampling and ("label" not in train.columns or train.columns["label"].kind != "class"):
        found = " and ".join(column.kind for column in train.columns.values() if column.kind not in INPUTS) or "none"
        raise InputError(
            f"data.sampling={config.sampling} needs one class per example, this data's targets are {found}; remove it, "
            "or name a column of groups in data.sampling_by"
        )


def sampler(config: DataConfig, train: Split, *, by_class: bool = True) -> Sampler | Repeated | None:
    """The epochs that the config asks for, of these training examples; None where each occurs once.

    `by_class` is whether `config.sampling` counts, of a stage that reads labels.
    """
    made, by = None, config.sampling_by
    if config.sampling and by_class:
        strata = [train.example(by, row) for row in range(len(train))] if by else train.labels
        made = Sampler.of(config.sampling, np.asarray(strata))
    return Repeated(len(train), config.repeats, made) if config.repeats else made


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
    if dataset.multilabel:  # an example with none of the chosen classes is a negative for each
        return split
    if dataset.classes and split.labels is not None:
        wrong = split.labels[(split.labels < 0) | (split.labels > top)]
        if len(wrong):
            raise InputError(f"expected labels 0..{top} in split {name!r}, found {wrong[0]}; correct the source")
    split = _of_classes(split, dataset, names)
    if not len(split):
        raise InputError(f"split {name!r} has no example of the chosen classes; add some or choose other data.classes")
    return split


def _of_classes(split: Split, dataset: Dataset, names: tuple[str, ...]) -> Split:
    if names == dataset.classes:
        return split
    kept = [dataset.classes.index(name) for name in names]
    return split.take(np.flatnonzero(np.isin(split.labels, kept)))


def _blanked(dataset: Dataset, names: tuple[str, ...]) -> Split:
    """The inputs of the test split, chosen classes only, so that nothing can be selected on it."""
    test = dataset.splits["test"] if dataset.multilabel else _of_classes(dataset.splits["test"], dataset, names)
    return test.sealed()


def _take_val(train: Split, config: DataConfig, dataset: Dataset, names: tuple[str, ...]) -> tuple[Split, Split]:
    """(val, the rest of train); uses seed 0, so that every run of a study validates on the same examples."""
    share = {"per_class": config.val_per_class, "fraction": config.val_fraction}
    if held_out.described(config):
        held = held_out.chosen(train, _strata(train), config)
        drawn, rest = np.flatnonzero(held), np.flatnonzero(~held)
    else:
        drawn, rest = draw(_strata(train), seed=0, stream=Stream.VAL, **share)
    before, after = _counts(train, dataset, names), _counts(train.take(rest), dataset, names)
    for who, count in after.items():
        if not count:
            taken = f"{_how(config)} leaves none of them to train on"
            raise InputError(f"{who} has {before[who]} training examples and {taken}; lower it or add examples")
    return train.take(drawn), train.take(rest)


def _how(config: DataConfig) -> str:
    """The options that say which training examples are val."""
    option = "val_per_class" if config.val_per_class else "val_fraction"
    return held_out.described(config) or f"data.{option}={getattr(config, option):g}"


def _unvalidated(val: Split, config: DataConfig, dataset: Dataset, names: tuple[str, ...]) -> tuple[str, ...]:
    """A note on classes without an example in val, which groups and times don't look at."""
    missing = [who for who, count in _counts(val, dataset, names).items() if not count]
    return (f"val has no example of {', '.join(missing[:6])}: {_how(config)}",) if missing else ()


def _few(train: Split, config: DataConfig, dataset: Dataset, names: tuple[str, ...], seed: int) -> tuple[Split, str]:
    """(the training examples that keep their labels, how they are drawn)."""
    option = "labels_per_class" if config.labels_per_class else "labels"
    wanted = getattr(config, option)
    counts = _counts(train, dataset, names) if config.labels_per_class else {"the data": len(train)}
    who, count = min(counts.items(), key=lambda item: item[1])
    if count < wanted:
        lower = f"data.{option}={wanted}; lower it to {count}"
        raise InputError(f"{who} has {count} training examples besides validation, expected {lower}")
    strata = _strata(train) if config.labels_per_class else np.zeros(len(train), np.int32)
    few = train.take(draw(strata, seed=seed, stream=Stream.LABELS, per_class=wanted)[0])
    for who, count in _counts(few, dataset, names).items():
        if not count:
            fix = "raise it, or draw of each class with data.labels_per_class"
            raise InputError(f"data.{option}={wanted} draws no example of {who} under seed {seed}; {fix}")
    return few, f"data.{option}={wanted}, seed {seed}"


def _absent(few: Split, dataset: Dataset, names: tuple[str, ...], how: str) -> tuple[str, ...]:
    """A note on classes that no set of labels has; such an example is still a negative of each."""
    if not dataset.multilabel:
        return ()
    held = few.labels.any(axis=0)
    missing = [name for name in names if not held[dataset.classes.index(name)]]
    more = f" and {len(missing) - 6:,} more" if len(missing) > 6 else ""
    count = f"{len(missing):,} of {len(names):,} classes"
    return (f"{how}: no example of {count} ({', '.join(missing[:6])}{more})",) if missing else ()


def relabelled(split: Split, dataset: Dataset, names: tuple[str, ...]) -> Split:
    """The split with labels that count these names of the dataset's classes."""
    if not names or split.labels is None:
        return split
    places = [dataset.classes.index(name) for name in names]
    label = split.columns["label"]
    if dataset.multilabel:
        return split.with_column("label", Array(label.values[:, places], label.kind))
    table = np.full(len(dataset.classes), -1, np.int32)
    table[places] = np.arange(len(names))
    return split.with_column("label", Array(table[label.values], label.kind))


def _counts(split: Split, dataset: Dataset, names: tuple[str, ...]) -> dict[str, int]:
    """{name of a stratum, for errors: number of examples}."""
    if dataset.multilabel or split.labels is None:
        return {"the data": len(split)}
    counts = {f"class {name!r}": int(np.sum(split.labels == dataset.classes.index(name))) for name in names}
    return counts or {"the data": len(split)}


def _strata(split: Split) -> np.ndarray:
    """What `draw` draws equal shares of; data without labels are one stratum, as real targets are."""
    return np.zeros(len(split), np.float32) if split.labels is None else split.labels
