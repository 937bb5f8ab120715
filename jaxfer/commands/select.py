"""`jaxfer select`: scores of finished runs on an unlabelled target, beside the choice that its labels would make."""

from __future__ import annotations

import argparse
import sys

from jaxfer.commands import shared
from jaxfer.errors import InputError

HELP = "score runs on a target without its labels (entropy, SND, weighted risk, DEV), and what each score chooses"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs of one source and target")
    parser.add_argument("--stream", default="target", help="the unlabelled stream of their configs (default: target)")
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import jaxfer
    from jaxfer import terminal
    from jaxfer.evals.selecting import ORACLE

    if overrides:
        raise InputError(f"jaxfer select takes no --config options, found {min(overrides)}")
    shared.keep_programs(arguments)
    found, page = jaxfer.select(arguments.runs, stream=arguments.stream), terminal.page_of(sys.stdout)
    names = list(next(iter(found.runs.values())))
    columns = (terminal.Column("", terminal.NAME), *map(terminal.Column, names))
    rows = [
        (run, *("sealed" if values[name] is None else f"{values[name]:.4f}" for name in names))
        for run, values in found.runs.items()
    ]
    print(terminal.table(columns, rows, page))
    reached = {run: values[ORACLE] for run, values in found.runs.items()}
    for name, run in found.chosen.items():
        how = "on the target's labels" if name == ORACLE else "without the target's labels"
        accuracy = "" if reached[run] is None else f", accuracy on the target {reached[run]:.4f}"
        print(f"{name} chooses {run} ({how}{accuracy})")
