"""`jaxfer show`: what a config would train, before anything is allocated."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from jaxfer.commands import shared

HELP = "parameters, groups, rates and cost, before anything is allocated"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=shared.CONFIG)
    drawn = "also draw 16 training images, each beside its augmentation, into CONFIG-augmented.png here"
    shared.add_place(parser)
    parser.add_argument("--pictures", action="store_true", help=drawn)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import jaxfer
    from jaxfer import terminal

    config, folder = jaxfer.load(arguments.config, overrides), shared.workdir(arguments)
    print(jaxfer.show(config, folder).text(terminal.page_of(sys.stdout)))
    if arguments.pictures:
        from jaxfer.figures.pictures import pictures

        name, _, arg = arguments.config.partition(":")
        file = "-".join(filter(None, (Path(name).stem, re.sub(r"\W+", "-", arg), "augmented")))
        terminal.say(pictures(config, f"{file}.png", folder))
