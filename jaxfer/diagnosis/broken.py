"""Rows and files that can't be read. All are looked at, also where `jaxfer run` would stop at the first of them.

Sources with `data.bad_rows` leave them out here whatever the config allows; images of a right header are decoded too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping

import numpy as np
from ml_collections import ConfigDict

from jaxfer import schema
from jaxfer.data.encodings.image import ImageEncoding
from jaxfer.data.prepare import made
from jaxfer.data.sources.rows import allowed
from jaxfer.data.split import Dataset, Split
from jaxfer.diagnosis.finding import LISTED, SEVERE, Example, Finding, graded, percent
from jaxfer.diagnosis.opened import Opened, Pictures, seen
from jaxfer.registry import SOURCES

SHARE = 0.01  # from which on it is a warning
MAIN, OPTION = "data", "bad_rows"


def skipping(config: ConfigDict) -> dict[str, float]:
    """Lets every source of the config that can leave out what it can't read do so.

    Returns:
      {`data` or `stream.NAME`: how many the config itself allows}.

    Raises:
      InputError: no number of rows.
    """
    data, streams = config.get("data"), config.get("stream")
    streams = streams.items() if isinstance(streams, ConfigDict) else ()
    of = {MAIN: data, **{f"stream.{name}": own for name, own in streams}}
    limits = {}
    for where, own in of.items():
        source = own.get("source") if isinstance(own, ConfigDict) else None
        if isinstance(source, str) and source in SOURCES.names() and OPTION in SOURCES.schema(source):
            kind, default = SOURCES.schema(source)[OPTION]
            limits[where] = allowed(schema.check(own.get(OPTION, default), kind, f"config.{where}.{OPTION}"))
            with own.unlocked(), own.ignore_type():
                own[OPTION] = "skip"
    return limits


def check(opened: Opened, limits: Mapping[str, float]) -> Iterator[Finding]:
    """What sources left out, and images that can't be decoded."""
    experiment = opened.ready.experiment
    sources = {MAIN: (opened.data, experiment.source)}
    sources |= {f"stream.{name}": (opened.data.streams[name], stream.source) for name, stream in experiment.streams}
    for where, limit in limits.items():
        data, source = sources[where]
        if data.bad:
            read = made(source.name, SOURCES.complete(source.name, dict(source.options), f"config.{where}"))
            yield _left_out(where, data, sum(map(len, read.splits.values())), limit)
    yield from _undecodable(opened)


def _left_out(where: str, data: Dataset, kept: int, limit: float) -> Finding:
    count, total = len(data.bad), len(data.bad) + kept
    refused = count > limit
    severity, threshold = graded(count / total, (limit + 1) / total if refused else None, SHARE)
    does = f"leaves them out (config.{where}.{OPTION})"
    if refused:
        does = f"stops at {'the first' if not limit else f'more than {limit:,.0f}'}"
    return Finding(
        severity=severity,
        kind="left_out",
        message=f"{count:,} of {total:,} rows or files of config.{where} ({percent(count / total)}) can't be read; "
        f"`jaxfer run` {does}.",
        fix=f"correct, replace or remove them, or set config.{where}.{OPTION}={count}"
        if refused
        else "correct, replace or remove them",
        value=count / total,
        threshold=threshold,
        examples=tuple(map(_example, data.bad[:LISTED])),
    )


def _example(line: str) -> Example:
    """Of `train.tsv:7 has no text` or `cat/1.png: is no image`."""
    row = re.match(r"([^:]+:\d+) (.*)", line, re.DOTALL)
    name, says = row.groups() if row else (*line.split(": ", 1), "")[:2]
    return Example(name=name, says=says)


def _undecodable(opened: Opened) -> Iterator[Finding]:
    for name, wrong in opened.undecodable.items():
        total = len(opened.splits[name]) + len(wrong)
        yield Finding(
            severity=SEVERE,
            kind="undecodable",
            message=f"{len(wrong):,} of {total:,} images of {name} ({percent(len(wrong) / total)}) have a right header "
            "and can't be decoded; `jaxfer run` stops where it meets one.",
            fix="replace or remove these files",
            value=len(wrong) / total,
            threshold=1 / total,
            examples=wrong[:LISTED],
        )


def decoded(opened: Opened) -> Opened:
    """With its images looked at, without those that can't be decoded.

    Raises:
      InputError: a split of which none can.
    """
    encoding = opened.encoding("image")
    if not isinstance(encoding, ImageEncoding):
        return opened
    pictures: dict[str, Pictures] = {}
    splits, undecodable, lost = dict(opened.splits), {}, {}
    for name, split in opened.splits.items():
        pictures[name], why = seen(split, encoding)
        if why:
            undecodable[name] = tuple(opened.example(name, i, reason) for i, reason in why.items())
            splits[name] = split.take(np.setdiff1d(np.arange(len(split)), [*why]))
            lost[name] = split.rows[[*why]]
    if not lost:
        return dataclasses.replace(opened, pictures=pictures)
    data = opened.data
    whole = {name: _without(split, lost.get(name)) for name, split in data.splits.items()}
    data = dataclasses.replace(data, splits=whole)
    ready = dataclasses.replace(opened.ready, data=data)
    return dataclasses.replace(opened, ready=ready, splits=splits, pictures=pictures, undecodable=undecodable)


def _without(split: Split, rows: np.ndarray | None) -> Split:
    return split if rows is None else split.take(np.flatnonzero(~np.isin(split.rows, rows)))
