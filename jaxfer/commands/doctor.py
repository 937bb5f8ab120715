"""`jaxfer doctor`: findings about a config's data and plan, before any training."""

from __future__ import annotations

import argparse
import json
import sys

from jaxfer.commands import shared

HELP = "look for faults in a config's data and plan before any training"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=shared.CONFIG)
    parser.add_argument("--json", action="store_true", help="print all findings as JSON")
    parser.add_argument(
        "--examples", type=int, default=10_000, metavar="N", help="of a split to look at (10000); 0: all"
    )
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Findings are no failure: 0 whatever they are."""
    import jaxfer
    from jaxfer import terminal
    from jaxfer.parallel import cluster

    cluster.refuse("doctor")
    shared.keep_programs(arguments)
    arguments.workdir = None
    found = jaxfer.doctor(
        arguments.config,
        examples=arguments.examples,
        place=shared.workdir(arguments, "doctor"),
        overrides=overrides,
        quiet=arguments.json,
    )
    print(json.dumps(found.to_dict(), indent=2) if arguments.json else found.text(terminal.page_of(sys.stdout)))
