"""`jaxfer show`: what a config would train, before anything is allocated."""

from __future__ import annotations

import argparse
import sys

from jaxfer.commands import shared

HELP = "parameters, groups, rates and cost, before anything is allocated"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=shared.CONFIG)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import jaxfer
    from jaxfer import terminal

    print(jaxfer.show(jaxfer.load(arguments.config, overrides)).text(terminal.page_of(sys.stdout)))
