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
from jaxfer.diagnosis import broken, classes, duplicates, features, images, plan, preprocessing, rows, texts
from jaxfer.diagnosis.finding import NOTE, SEVERITIES, Diagnosis, Example, Finding
from jaxfer.diagnosis.opened import Opened
from jaxfer.errors import InputError
from jaxfer.training.progress import Reporter

__all__ = ["CHECKS", "EXAMPLES", "Diagnosis", "Example", "Finding", "doctor"]

CHECKS = (
    duplicates.check,
    classes.check,
    images.check,
    texts.check,
    rows.check,
    features.check,
    preprocessing.check,
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
      InputError: what `jaxfer run` would refuse, besides bad rows and files that `data.bad_rows` could leave out:
        those are found.
    """
    begun, overrides = time.perf_counter(), overrides or {}
    if isinstance(examples, bool) or not isinstance(examples, int) or examples < 0:
        raise InputError(f"--examples: expected a number of examples of a split, found {examples!r}; 0 looks at all")
    config = configs.load(spec, overrides) if isinstance(spec, str) else configs.override(spec, overrides)
    config.test = False  # the test split stays sealed: inputs alone
    limits = broken.skipping(config)
    with opened_once():
        config, ready, untrained = plan.thawed(config, epath.Path(place))
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
        opened = broken.decoded(opened)
        found = [*untrained, *broken.check(opened, limits)]
        found += [finding for check in CHECKS for finding in check(opened)]
    left = {name: size - len(splits[name]) for name, size in sizes.items() if size > len(splits[name])}
    if left:
        some = tuple(Example(split=name, says=f"{count:,} were not looked at") for name, count in left.items())
        parts = ", ".join(f"{len(splits[name]):,} of {sizes[name]:,} of {name}" for name in left)
        found.append(
            Finding(
                severity=NOTE,
                kind="sampled",
                message=f"Only {parts} were looked at, evenly spaced; copies are found among these alone.",
                fix="--examples=0 looks at all",
                value=sum(left.values()),
                threshold=1,
                examples=some,
            )
        )
    return Diagnosis(
        findings=tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity))),
        examples={name: len(split) for name, split in splits.items()},
        seconds=time.perf_counter() - begun,
        config=spec if isinstance(spec, str) else "",
        overrides=overrides,
        most=examples,
    )
