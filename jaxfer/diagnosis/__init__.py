"""`jaxfer doctor`: findings about a config's data and plan before any training.

A group of checks is a file with `check(opened)`, which yields findings. None of them reads the labels of the test
split; its inputs are compared with those of the others for copies, and looked at for what can't be read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxfer import config as configs
from jaxfer.data.prepare import opened_once
from jaxfer.diagnosis import classes, duplicates, features, images, plan, rows, texts
from jaxfer.diagnosis.finding import NOTE, SEVERITIES, Diagnosis, Example, Finding
from jaxfer.diagnosis.opened import Opened
from jaxfer.errors import InputError
from jaxfer.training.preflight import preflight
from jaxfer.training.progress import Reporter

__all__ = ["CHECKS", "EXAMPLES", "Diagnosis", "Example", "Finding", "doctor"]

CHECKS = (
    duplicates.check,
    classes.check,
    images.check,
    texts.check,
    rows.check,
    features.check,
    plan.check,
)
EXAMPLES = 10_000  # of a split


def doctor(
    spec: str | ConfigDict,
    *,
    examples: int = EXAMPLES,
    place: str | epath.Path = ".",
    overrides: Mapping[str, Any] | None = None,
    quiet: bool = False,
) -> Diagnosis:
    """Looks for faults in a config's data and plan. Nothing is trained, and no label of the test split is read.

    Args:
      spec: a config file, as `jaxfer.load` takes one, or its config.
      examples: at most so many of a split are looked at, evenly spaced; 0: all. Classes are counted of all.
      place: a run's folder; `sibling:NAME` is beside it.
      overrides: {"data.x": value}, as on the command line.
      quiet: leave out what is being computed.

    Raises:
      InputError: what `jaxfer run` would refuse.
    """
    begun, overrides = time.perf_counter(), overrides or {}
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 0:
        raise InputError(f"--examples: expected a number of examples of a split, found {examples!r}; 0 looks at all")
    config = configs.load(spec, overrides) if isinstance(spec, str) else configs.override(spec, overrides)
    config.test = False  # the test split stays sealed: inputs alone
    with opened_once():
        ready = preflight(config)
        data = ready.data
        splits = {**data.splits, **({"test": data.sealed} if data.sealed is not None else {})}
        splits = {name: splits[name] for name in ("train", "val", "test") if name in splits}
        sizes = {name: len(split) for name, split in splits.items()}
        if examples:
            splits = {
                name: split.take(np.unique(np.linspace(0, len(split) - 1, min(examples, len(split))).astype(int)))
                for name, split in splits.items()
            }
        opened = Opened(
            config=config,
            ready=ready,
            splits=splits,
            place=epath.Path(place),
            overrides=overrides,
            say=Reporter(quiet=quiet).say,
        )
        found = [finding for check in (_read, *CHECKS) for finding in check(opened)]
    left = {name: size - len(splits[name]) for name, size in sizes.items() if size > len(splits[name])}
    if left:
        parts = ", ".join(f"{len(splits[name]):,} of {sizes[name]:,} of {name}" for name in left)
        found.append(
            Finding(
                severity=NOTE,
                kind="sampled",
                message=f"Only {parts} were looked at, evenly spaced; copies are found among these alone.",
                fix="--examples=0 looks at all",
                value=sum(left.values()),
                threshold=1,
            )
        )
    return Diagnosis(
        findings=tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))),
        examples={name: len(split) for name, split in splits.items()},
        seconds=time.perf_counter() - begun,
    )


def _read(opened: Opened) -> list[Finding]:
    """What the source left out."""
    count, notes = opened.data.left_out, opened.data.notes
    if not count:
        return []
    fix = "correct them in the files, or keep data.bad_rows as it is"
    message = f"{count:,} bad rows or unreadable files were left out: {notes[0] if notes else 'see `jaxfer show`'}."
    return [Finding(severity=NOTE, kind="left_out", message=message, fix=fix, value=count, threshold=1)]
