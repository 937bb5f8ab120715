"""`jaxfer adapters`: several runs' adapters on the one backbone that they share: one of them, their sum, or a stack."""

from __future__ import annotations

import argparse
from pathlib import Path

from jaxfer.commands import shared
from jaxfer.errors import InputError

HELP = "evaluate adapters that share one frozen backbone: one of them, a weighted sum, or a stack"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help="folders of finished runs; an adapter's name is its last part"
    )
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--use", metavar="NAME", help="one adapter, with its head")
    how.add_argument("--weights", metavar="NAME=W,...", help="the sum of their updates, each times its weight")
    how.add_argument("--stack", metavar="NAME,...", help="one after the other, the first one first")
    parser.add_argument("--head", metavar="NAME", help="whose output layer answers; default the first that is named")
    parser.add_argument("--split", default="val", help="val (default), test or train, of that run's data")
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import jaxfer
    from jaxfer.exports.adapters import evaluate

    runs = {Path(run).name: run for run in arguments.runs}
    if len(runs) < len(arguments.runs):
        raise InputError(f"expected folders of different names, found {', '.join(arguments.runs)}")
    shared.keep_programs(arguments)
    adapters = jaxfer.adapters(runs)
    if arguments.use is not None:
        if arguments.head not in (None, arguments.use):
            raise InputError("--head: --use has the adapter's own; for another head give --stack=NAME --head=OTHER")
        named, model = [arguments.use], adapters.switch(arguments.use)
    elif arguments.stack is not None:
        named = arguments.stack.split(",")
        model = adapters.stacked(named, head=arguments.head)
    else:
        weights = dict(map(_weight, arguments.weights.split(",")))
        named, model = list(weights), adapters.weighted(weights, head=arguments.head)
    answers = adapters.each[arguments.head or named[0]].folder
    print(shared.numbers(evaluate(model, answers, split=arguments.split, overrides=overrides), f"{arguments.split}: "))


def _weight(word: str) -> tuple[str, float]:
    name, _, weight = word.rpartition("=")
    try:
        return name, float(weight)
    except ValueError:
        raise InputError(f"--weights: expected NAME=WEIGHT,NAME=WEIGHT, found {word!r}") from None
