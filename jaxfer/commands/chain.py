"""`jaxfer chain`: runs that learned one task after the other, each on every task."""

from __future__ import annotations

import argparse
import math
import sys

from jaxfer.commands import shared
from jaxfer.errors import InputError

HELP = "evaluate runs that learned one task after the other: every task after each, forgetting and transfer"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs, in the order of their tasks")
    parser.add_argument("--split", default="val", help="val (default), test or train")
    numbers = "scores of an untrained network on each task, for forward transfer: 0.5,0.48,..."
    parser.add_argument("--untrained", metavar="SCORES", help=numbers)
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import jaxfer
    from jaxfer import terminal

    if overrides:
        raise InputError(f"jaxfer chain takes no --config options, found {min(overrides)}")
    try:
        start = [float(score) for score in arguments.untrained.split(",")] if arguments.untrained else None
    except ValueError:
        raise InputError(f"--untrained: expected numbers with commas, found {arguments.untrained!r}") from None
    shared.keep_programs(arguments)
    found = jaxfer.chain(arguments.runs, split=arguments.split, untrained=start)
    tasks = (terminal.Column(f"task {place + 1}") for place in range(len(found.scores)))
    columns = (terminal.Column("after", terminal.NAME), *tasks)
    rows = [
        (run, *("" if math.isnan(score) else f"{score:.4f}" for score in scores))
        for run, scores in zip(arguments.runs, found.scores, strict=True)
    ]
    print(f"{arguments.split} {found.metric} on each task")
    print(terminal.table(columns, rows, terminal.page_of(sys.stdout)))
    told = {
        "average after the last": found.transfer.average,
        "forgetting": found.transfer.forgetting,
        "backward transfer": found.transfer.backward,
        "forward transfer": found.transfer.forward,
    }
    print("; ".join(f"{name} {value:.4f}" for name, value in told.items() if value is not None))
