"""`jaxfer ensemble`: finished runs, of any models, answer together."""

from __future__ import annotations

import argparse
import sys

from jaxfer.commands import shared

HELP = "evaluate finished runs together: the mean of their probabilities, or votes"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs of the same classes")
    parser.add_argument("--split", default="val", help="val (default), test or train")
    parser.add_argument("--combine", default="probabilities", help="probabilities (default) or votes")
    table = "of a classification: write a row for each example there, the most confident mistakes first"
    parser.add_argument("--predictions", metavar="FILE.csv", help=table)
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import jaxfer
    from jaxfer import terminal

    shared.keep_programs(arguments)
    given = {"split": arguments.split, "combine": arguments.combine, "predictions": arguments.predictions}
    found = jaxfer.ensemble(arguments.runs, overrides=overrides, **given)
    names = [name for name in found["ensemble"] if all(name in scores for scores in found.values())]
    columns = (terminal.Column("", terminal.NAME), *map(terminal.Column, names))
    rows = [(who, *(f"{scores[name]:.4f}" for name in names)) for who, scores in found.items()]
    print(f"{arguments.split}, {arguments.combine} of {len(arguments.runs)} runs")
    print(terminal.table(columns, rows, terminal.page_of(sys.stdout)))
