"""How the model reads its inputs against what its checkpoint's files, or the source run's config, say of it.

An option of `config.model` is about this where the model's encoding has a field of its name; `image` is its size.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from jaxfer import terminal
from jaxfer.diagnosis.finding import LISTED, NOTE, WARNING, Example, Finding, listed
from jaxfer.diagnosis.opened import Opened
from jaxfer.errors import InputError
from jaxfer.pretrained import columns, foreign, starting
from jaxfer.registry import MODELS
from jaxfer.runs.folder import stored_experiment

# With others the network sees numbers, or tokens, of another kind than those it was trained on.
TELLING = frozenset(("mean", "std", "rate", "mels", "log_mean", "log_std", "normalize", "tokenizer_sha256"))
SCALE = 2.0  # of a side of the image, here to there or the reverse, from which on it is a warning


def check(opened: Opened) -> Iterator[Finding]:
    """What differs, what no file states, and the other assumptions that the plan makes of the checkpoint."""
    checkpoint, init = opened.ready.checkpoint, opened.config.init
    encodings = filter(dataclasses.is_dataclass, opened.encodings)
    fields = {field.name for encoding in encodings for field in dataclasses.fields(encoding)}
    reading = (fields | {"image", "tokenizer_sha256"}) - {"tokenizer"}  # tokenizers are compared by content
    yield from _different(opened, reading)
    assumed = {} if checkpoint is None else dict(checkpoint.assumed)
    yield from _assumed(init, {name: value for name, value in assumed.items() if name in reading})
    other = {name: value for name, value in assumed.items() if name not in reading}
    lines = [line for line in opened.ready.assumed if line not in foreign.guesses(init, assumed)]
    for line in (*foreign.guesses(init, other), *lines):
        yield Finding(severity=NOTE, kind="plan", message=f"{line}.", fix="see `jaxfer show`")


def _different(opened: Opened, reading: set[str]) -> Iterator[Finding]:
    own, there = dict(opened.ready.experiment.model.options), _stated(opened)
    announced = {*opened.ready.experiment.run.differs, *columns.announced(opened.ready.experiment.run.differs)}
    free = MODELS.training(opened.ready.experiment.model.name) - announced
    names = [name for name in own if name in reading and name in there and name not in free]
    by_severity: dict[str, list[Example]] = {WARNING: [], NOTE: []}
    for name in names:
        if _values(name, own) != _values(name, there):
            says = f"{_shown(there[name])} there, {_shown(own[name])} here"
            by_severity[_severity(name, there[name], own[name])].append(Example(name=name, says=says))
    for severity, found in by_severity.items():
        if found:
            yield Finding(
                severity=severity,
                kind="preprocessing",
                message=f"{opened.config.init} was trained on inputs that were read otherwise: "
                f"{listed([f'{example.name} is {example.says}' for example in found])}.",
                fix="remove these from config.model and config.differs to read inputs as it did, or compare both",
                value=len(found),
                threshold=1,
                examples=tuple(found[:LISTED]),
            )


def _stated(opened: Opened) -> Mapping[str, Any]:
    """Options of the checkpoint's files, or of the source run's model; {} from scratch and where there is no run."""
    checkpoint, init = opened.ready.checkpoint, opened.config.init
    if checkpoint is not None:
        return {name: value for name, value in checkpoint.options.items() if name not in checkpoint.soft}
    if init == "scratch" or foreign.is_foreign(init):
        return {}
    try:
        return dict(stored_experiment(starting.locate(init, opened.place)).model.options)
    except InputError:  # what needs the run says so
        return {}


def _values(name: str, options: Mapping[str, Any]) -> Any:
    """The option's value; of a mean or deviation for all channels, one for each."""
    value, image = options[name], options.get("image", ())
    return value * image[2] if name in ("mean", "std") and len(value) == 1 and len(image) == 3 else value


def _shown(value: Any) -> str:
    return terminal.shortened(repr(value), 60)  # statistics of columns are long


def _severity(name: str, there: Any, here: Any) -> str:
    if name == "image":
        ratios = [max(a, b) / max(min(a, b), 1) for a, b in zip(there[:2], here[:2], strict=False)]
        return WARNING if max(ratios, default=1.0) >= SCALE else NOTE
    return WARNING if name in TELLING else NOTE


def _assumed(init: str, values: Mapping[str, Any]) -> Iterator[Finding]:
    for severity in (WARNING, NOTE):
        own = {name: value for name, value in values.items() if (name in TELLING) == (severity == WARNING)}
        if own:
            fields = listed([f"config.model.{name}" for name in own])
            yield Finding(
                severity=severity,
                kind="preprocessing",
                message=f"No file of {init} states {listed([*own])}: the usual value of its "
                f"family is taken, {listed([f'{name}={value!r}' for name, value in own.items()])}.",
                fix=f"look it up where the checkpoint was published and set {fields}",
                value=len(own),
                threshold=1,
                examples=tuple(
                    Example(name=name, says=f"stated nowhere, {value!r} here") for name, value in own.items()
                )[:LISTED],
            )
