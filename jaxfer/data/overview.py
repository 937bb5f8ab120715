"""A summary of a run's data in a few lines: classes, counts, provenance of each split, duplicates, truncated texts."""

from __future__ import annotations

import dataclasses
import itertools
import textwrap
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len

from jaxfer.data import index
from jaxfer.data.encoding import Encoding
from jaxfer.data.split import Dataset, Split

WIDTH = 80  # columns
LISTED = 12  # classes; of more, the largest and the smallest are shown
NAME = 30  # columns of a class's name
READ = 2**30  # bytes that may be read to look for duplicates
NOUNS = {"image": "images", "text": "texts", "audio": "sounds", "row": "rows"}
SAMPLE = 20_000  # texts per split that are tokenized to count truncated ones when no run follows


def overview(
    source: str,
    options: Mapping[str, Any],
    data: Dataset,
    encodings: Sequence[Encoding],
    *,
    sample: int = 0,
    of: str = "data",
) -> str:
    """The lines that `show` and `run` print first.

    Args:
      source: name of the data source.
      options: the source's options; `path` or `name` says what it read.
      data: as `prepare` returns it.
      encodings: the model's.
      sample: at most so many texts of a split are tokenized to count those that are cut; 0: all.
      of: what the first line calls them.

    Returns:
      Lines of at most 80 columns, as long as no single word is longer.
    """
    where = options.get("path") or options.get("name") or ""
    title = f"{of}: {source}{f' {where}' if where else ''} · {_kind(data)}"
    lines = [*_wrapped(title, ""), *(f"  {row}" for row in _table(data))]
    for name, split in _splits(data).items():
        origin = data.provenance.get(name, "the source's own")
        sealed = ", sealed: config.test=true opens it" if split is data.sealed else ""
        lines += _wrapped(f"{name.ljust(5)}  {origin}{sealed}", "  ")
    notes = [*data.notes, *_groups(data), *copies(_splits(data))]
    read = data
    if data.pool is not None:
        read = dataclasses.replace(data, splits={**data.splits, "all of train": data.pool})
    notes += (note for encoding in encodings for note in encoding.notes(read, sample))
    lines += (line for note in notes for line in _wrapped(f"note: {note}", "  "))
    # Linux keeps names as bytes: one that isn't UTF-8 can't be printed as it is.
    return "\n".join(lines).encode(errors="backslashreplace").decode()


def copies(splits: Mapping[str, Split]) -> tuple[str, ...]:
    """A line for each pair of splits with examples of the same content, and one for each split with examples of the
    same content under different labels: the same bytes, the same texts, or texts that differ in case and spaces."""
    columns = {name: split.input[1] for name, split in splits.items()}
    if not all(hasattr(column, "key") for column in columns.values()):
        return ("duplicates across splits were not checked: the data source has no keys",)
    reads = sum(len(split) * columns[name].key_bytes for name, split in splits.items())
    if reads > READ:
        return (f"duplicates across splits were not checked: {reads / 2**30:.1f} GiB to read",)
    keys = {name: _keys(split, None) for name, split in splits.items()}
    shared = {key for key, count in Counter(itertools.chain(*keys.values())).items() if count > 1}
    keys = {name: _keys(split, shared) if shared else [] for name, split in splits.items()}
    index.keep()
    lines, labels = [], {name: _labels(split) for name, split in splits.items()}
    for name, other in itertools.combinations(splits, 2):
        some = f"of {len(splits[other]):,} examples of {other}"
        known = _labels_of(keys[name], labels[name])
        found = [(key, label) for key, label in zip(keys[other], labels[other], strict=False) if key in known]
        wrong = sum(None not in (label, *known[key]) and label not in known[key] for key, label in found)
        if found:
            end = f", {wrong:,} with another label" if wrong else ""
            lines.append(f"{len(found):,} {some} are also in {name}, exact copies{end}")
        if alike := _alike(splits[name], splits[other]):
            lines.append(f"{alike:,} {some} are in {name} but for case and spaces")
    for name, split in splits.items():
        known = _labels_of(keys[name], labels[name])
        if wrong := sum(len(known[key]) > 1 for key in keys[name]):
            some = f"{wrong:,} of {len(split):,} examples of {name}"
            lines.append(f"{some} have exact copies there with another label")
    return tuple(lines)


def _labels(split: Split) -> list[Hashable]:
    """The label of each example, as something to compare; None where there is none."""
    return [None] * len(split) if split.labels is None else [label.tobytes() for label in split.labels]


def _labels_of(keys: Sequence[Hashable], labels: Sequence[Hashable]) -> dict[Hashable, set[Hashable]]:
    """{key: the labels of its examples}."""
    known: dict[Hashable, set[Hashable]] = {}
    for key, label in zip(keys, labels, strict=False):
        known.setdefault(key, set()).add(label)
    return known


def _alike(split: Split, other: Split) -> int:
    """Examples of the other split that this one has with other capitals and spaces alone."""
    columns = [part.input[1] for part in (split, other)]
    if not all(hasattr(column, "loose") for column in columns):
        return 0
    exact, loose = ({of(int(row)) for row in split.rows} for of in (columns[0].key, columns[0].loose))
    rows = (int(row) for row in other.rows)
    return sum(columns[1].loose(row) in loose and columns[1].key(row) not in exact for row in rows)


def _groups(data: Dataset) -> tuple[str, ...]:
    """A line on the groups of each split that has such."""
    lines = []
    for name, split in data.splits.items():
        if split.groups is not None:
            counts = Counter(split.groups.tolist()).most_common()
            (largest, most), (smallest, least) = counts[0], counts[-1]
            sizes = f"the largest {largest!r} ({most:,} examples), the smallest {smallest!r} ({least:,})"
            lines.append(f"groups of {name}: {len(counts):,}, {sizes}")
    return tuple(lines)


def _splits(data: Dataset) -> dict[str, Split]:
    """The splits in their usual order, including the sealed test split."""
    splits = {**data.splits, **({"test": data.sealed} if data.sealed is not None else {})}
    return {name: splits[name] for name in ("train", "val", "test") if name in splits}


def _kind(data: Dataset) -> str:
    column = data.splits["train"].input[1]
    kind = getattr(column, "noun", NOUNS.get(column.kind, column.kind))
    if data.splits["train"].labels is None:
        return kind
    if not data.classes:
        return f"{kind}, a number each"
    count = f"{len(data.classes):,} {'class' if len(data.classes) == 1 else 'classes'}"
    return f"{kind}, any of {count} each" if data.multilabel else f"{kind} of {count}"


def _table(data: Dataset) -> list[str]:
    """A row for each class (for targets: their mean, spread and range) and one for all; a column for each split."""
    splits = _splits(data)
    if data.splits["train"].labels is None:
        rows = []
    elif data.classes:
        columns = {name: _counts(split, data) for name, split in splits.items() if split is not data.sealed}
        order, left = _listed(columns["train"])
        rows = [(_short(data.classes[i]), *(_number(columns, name, i) for name in splits)) for i in order]
        if left:
            half = len(order) // 2
            rows.insert(half, (f"({left:,} more)", *("" for _ in splits)))
        if data.multilabel:
            none = {name: int(np.sum(~splits[name].labels.any(axis=1))) for name in columns}
            rows.append(("(none)", *(f"{none[name]:,}" if name in none else "-" for name in splits)))
    else:
        statistics = {"mean": np.mean, "std": np.std, "least": np.min, "most": np.max}
        rows = [
            (
                statistic,
                *("-" if split is data.sealed else f"{float(of(split.labels)):.4g}" for split in splits.values()),
            )
            for statistic, of in statistics.items()
        ]
    rows = [("class" if data.classes else "target", *splits), *rows]
    rows.append(("all", *(f"{len(split):,}" for split in splits.values())))
    widths = [max(cell_len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [_aligned(row, widths) for row in rows]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [row[0] + " " * (widths[0] - cell_len(row[0]))]
    cells += (cell.rjust(max(width, 6)) for cell, width in zip(row[1:], widths[1:], strict=True))
    return "  ".join(cells).rstrip()


def _counts(split: Split, data: Dataset) -> np.ndarray:
    """Examples of each class, int64 [classes]."""
    if data.multilabel:
        return split.labels.sum(axis=0)
    return np.bincount(split.labels, minlength=len(data.classes))


def _listed(counts: np.ndarray) -> tuple[list[int], int]:
    """(the classes to list, how many others there are): all, or the most and the least frequent ones."""
    if len(counts) <= LISTED:
        return list(range(len(counts))), 0
    order = np.argsort(-counts, kind="stable").tolist()
    half = LISTED // 2
    return [*order[:half], *order[-half:]], len(counts) - 2 * half


def _number(columns: Mapping[str, np.ndarray], name: str, row: int) -> str:
    return f"{int(columns[name][row]):,}" if name in columns else "-"


def _short(name: str) -> str:
    """A class's name on one line, its middle left out where it is long."""
    name = name if name.isprintable() else repr(name)[1:-1]
    return name if len(name) <= NAME else f"{name[: NAME // 2]}...{name[-(NAME // 2 - 3) :]}"


def _keys(split: Split, shared: set[Hashable] | None) -> list[Hashable]:
    """A key for each example: the column's `key`; for keys in `shared` also its `exact`, if it has one."""
    (_, column), rows = split.input, split.rows
    keys = [column.key(int(row)) for row in rows]
    if shared is None or not hasattr(column, "exact"):
        return keys
    return [(key, column.exact(int(row))) if key in shared else key for key, row in zip(keys, rows, strict=True)]


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=indent,
        subsequent_indent=indent + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
