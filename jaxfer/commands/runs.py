"""`jaxfer runs`: the runs below a folder as a table."""

from __future__ import annotations

import argparse
import sys

from jaxfer.commands import shared

HELP = "list the runs below a folder: what differs in their configs, scores, cost"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", default="runs", help="of runs, sweeps or comparisons (default runs)")
    parser.add_argument("--sort", default="", metavar="FIELD", help="smallest first; --sort=-FIELD: largest first")
    parser.add_argument(
        "--filter", action="append", default=[], metavar="'FIELD>VALUE'", help="< <= > >= = !=; may be given again"
    )
    parser.add_argument(
        "--columns", default="", metavar="FIELD,...", help="instead of state, differences, scores, cost"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV")
    form.add_argument("--json", action="store_true", help="print JSON")


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    shared.spare_accelerators()
    from jaxfer import terminal
    from jaxfer.errors import InputError
    from jaxfer.runs import listing
    from jaxfer.runs.survey import DAMAGED, survey

    for name in overrides:
        raise InputError(f"--config.{name}: this command reads no config; use --filter")
    runs = survey(arguments.folder)
    wanted = [name.strip() for name in arguments.columns.split(",") if name.strip()]
    columns, rows = listing.table(runs, columns=wanted, filters=arguments.filter, sort=arguments.sort)
    if arguments.csv or arguments.json:
        print((listing.as_csv if arguments.csv else listing.as_json)(columns, rows), end="")
    else:
        print(listing.as_text(columns, rows, terminal.page_of(sys.stdout)))
        terminal.say(f"{len(rows)} of {len(runs)} runs" if len(rows) < len(runs) else f"{len(runs)} runs")
    for run in runs:
        if run.state == DAMAGED:
            terminal.say(f"warning: {run.problem}", sys.stderr)
