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
    """A line for each pair of splits with examples of the same content: the same bytes, or the same texts."""
    columns = {name: split.input[1] for name, split in splits.items()}
    if not all(hasattr(column, "key") for column in columns.values()):
        return ("duplicates across splits were not checked: the data source has no keys",)
    reads = sum(len(split) * columns[name].key_bytes for name, split in splits.items())
    if reads > READ:
        return (f"duplicates across splits were not checked: {reads / 2**30:.1f} GiB to read",)
    keys = {name: _keys(split, None) for name, split in splits.items()}
    shared = {key for key, count in Counter(key for k in keys.values() for key in set(k)).items() if count > 1}
    keys = {name: _keys(split, shared) if shared else [] for name, split in splits.items()}
    index.keep()
    lines = []
    for name, other in itertools.combinations(splits, 2):
        known = set(keys[name])
        count = sum(key in known for key in keys[other])
        if count:
            lines.append(f"{count:,} of {len(splits[other]):,} examples of {other} are also in {name}, exact copies")
    return tuple(lines)


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
