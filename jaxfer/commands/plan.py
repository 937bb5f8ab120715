"""`jaxfer plan`: memory, traffic and time on a TPU slice, from a compile for it."""

from __future__ import annotations

import argparse
import json

from jaxfer.commands import shared

HELP = "compile for a TPU slice without having one; report memory, traffic and step time"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=shared.CONFIG)
    parser.add_argument(
        "--topology", required=True, help="KIND:SHAPE of a v4, v5e, v5p or v6e, e.g. v5e:4x4, v5p:2x2x2"
    )
    parser.add_argument("--json", action="store_true", help="every number, as one JSON object")
    shared.add_place(parser)
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    """0: every stage fits; `forecast.DOES_NOT_FIT`: one does not, and the printed remedies would make it fit."""
    import jaxfer
    from jaxfer import forecast, terminal

    shared.keep_programs(arguments)
    plan = forecast.plan(jaxfer.load(arguments.config, overrides), arguments.topology, shared.workdir(arguments))
    if arguments.json:
        print(json.dumps(plan.to_dict(), indent=1))
    else:
        terminal.say(str(plan), hang=None)
    return 0 if plan.fits else forecast.DOES_NOT_FIT
