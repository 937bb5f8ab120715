"""The conformance suite: what every method, model, task and data source must keep, one function per property.

The tests call these functions on everything in the package. `check_method` and its siblings run them on one thing by
name, a user's own file among them, and yield (property, None or what is wrong) as they go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from jaxfer.conformance import methods, models, sources, tasks, tiny
from jaxfer.errors import InputError
from jaxfer.registry import METHODS, MODELS, SOURCES, TASKS

# The numbers of every method are computed on one convolutional and one transformer case.
CONVOLUTION, TRANSFORMER = "resnet_basic", "vit_cls"
# One model of each kind of input; images have two.
KINDS = (CONVOLUTION, TRANSFORMER, "bert_pooler", "audio_cnn", "row_mlp", "series_cnn")

Verdict = tuple[str, str | None]


def check_method(name: str, cases: Sequence[str] = (CONVOLUTION, TRANSFORMER)) -> Iterator[Verdict]:
    """Shapes on one case of every model, numbers on `cases`, several devices on the first of them.

    Nothing more is asked of a model that the method refuses in one line; refusing all of `cases` is a problem.

    Raises:
      InputError: no method has this name, or its file can't be imported.
    """
    METHODS.get(name)
    reasons = {case: refusal(name, case) for case in dict.fromkeys((*cases, *families()))}
    applies = [case for case in cases if reasons[case] is None]
    for case, reason in reasons.items():
        if reason is not None:
            alone = case in cases and not applies
            yield f"{case}: refused ({reason})", "no model takes this method" if alone else None
        else:
            yield from _verdicts(methods.SHAPES, case, name, case)
    for case in applies:
        yield from _verdicts(methods.NUMBERS, case, name, case)
    for case in applies[:1]:
        yield from _verdicts(methods.LOWERED, case, name, case)
        yield from _placed(case, name, case)


def check_model(name: str) -> Iterator[Verdict]:
    """The model's own properties on each of its tiny cases, then full fine-tuning on the first."""
    MODELS.get(name)
    cases = tiny.cases(name)
    for case in cases:
        yield from _verdicts(models.PROPERTIES, case, case)
    yield from _verdicts((*methods.SHAPES, *methods.NUMBERS), f"full on {cases[0]}", "full", cases[0])
    yield from _placed(f"full on {cases[0]}", "full", cases[0])


def check_task(name: str) -> Iterator[Verdict]:
    """Losses and metrics of one task, and a traced step through every kind of head."""
    TASKS.get(name)
    yield from _verdicts(tasks.PROPERTIES, name, name)


def check_source(name: str, **options: Any) -> Iterator[Verdict]:
    """One data source with these options (`path=...`): its splits, labels and examples.

    Raises:
      InputError: no source has this name, or it refuses the options or their files.
    """
    yield from _verdicts(sources.PROPERTIES, name, SOURCES.make(name, **options))


def families() -> tuple[str, ...]:
    """The first tiny case of every model."""
    return tuple(tiny.cases(model)[0] for model in MODELS.names())


def refusal(method: str, case: str) -> str | None:
    """Why the method can't be applied to the model, as it says when the stage is planned; None where it can."""
    try:
        methods.planned(method, case)
    except InputError as error:
        return str(error)
    return None


def sentence(check: Callable[..., Any]) -> str:
    """A property's name as words: `merging gives the backbone back`."""
    return check.__name__.replace("_", " ")


def _placed(subject: str, method: str, case: str) -> Iterator[Verdict]:
    """The comparison of devices, or a line for each of its properties that says why it is not made."""
    wanted, count = max(devices for _, devices in methods.PLACEMENTS), jax.device_count()
    if count >= wanted:
        yield from _verdicts(methods.PLACED, subject, method, case)
        return
    for check in methods.PLACED:
        yield f"{subject}: {sentence(check)} (not checked: it takes {wanted} devices, this process has {count})", None


def _verdicts(checks: Sequence[Callable[..., str | None]], subject: str, *arguments: Any) -> Iterator[Verdict]:
    """Whatever a check raises is its problem: the next one is still run."""
    for check in checks:
        try:
            problem = check(*arguments)
        except Exception as error:
            reason = (str(error).splitlines() or ["no message"])[0]
            problem = reason if isinstance(error, InputError) else f"{type(error).__name__}: {reason}"
        yield f"{subject}: {sentence(check)}", problem
