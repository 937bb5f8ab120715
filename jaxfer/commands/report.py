"""`jaxfer report`: a run, a sweep, a comparison, a diagnosis or a ranking as one HTML file."""

from __future__ import annotations

import argparse
import sys

from jaxfer.commands import shared
from jaxfer.errors import InputError

HELP = "one HTML file on a run, a sweep, a comparison, a diagnosis or a ranking"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", help="folder of a run, sweep, comparison, doctor.json or rank.json; or the .json")
    parser.add_argument("--out", metavar="FILE.html", help="default: report.html in the folder, or beside the file")
    parser.add_argument("--quick", action="store_true", help="read files alone; evaluate nothing again")
    parser.add_argument("--limit", type=float, default=2.0, metavar="MB", help="what does not fit is left out (2)")
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    shared.no_overrides(overrides)
    if not 0.05 <= arguments.limit <= 100:
        raise InputError(f"--limit: expected 0.05 to 100 MB, found {arguments.limit:g}")
    import jaxfer
    from jaxfer import terminal
    from jaxfer.reports.page import HEAVY

    if arguments.quick:
        shared.spare_accelerators()
    shared.keep_programs(arguments)
    limit = int(1e6 * arguments.limit)
    written = jaxfer.report(arguments.path, out=arguments.out, evaluate=not arguments.quick, limit=limit)
    terminal.say(f"{written.kind}: {written.title}")
    terminal.say(f"{written.path} ({written.size / 1e6:.2f} MB)")
    if written.left_out:
        terminal.say(f"{len(written.left_out)} parts did not fit into {arguments.limit:g} MB; --limit makes room")
    if written.size > HEAVY:
        terminal.say("warning: browsers get slow from 5 MB on", sys.stderr)
