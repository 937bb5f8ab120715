"""`jaxfer merge`: finished runs of one model become one: soups, WiSE-FT, task vectors, Fisher, RegMean."""

from __future__ import annotations

import argparse

from jaxfer.commands import shared
from jaxfer.errors import InputError

HELP = "merge finished runs of one model into one"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of finished runs")
    rules = "uniform (default), greedy, wise_ft, arithmetic, ties, dare, fisher, regmean; settings: --config.options.X="
    parser.add_argument("--rule", default="uniform", help=rules)
    parser.add_argument("--base", help="the start that they have in common, as config.init names one; default: theirs")
    parser.add_argument("--workdir", help="the folder to write; default merged-RULE beside the first run")
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    if arguments.workdir == "":
        raise InputError("--workdir: expected a folder, found ''; name one, or omit --workdir")
    shared.resumable()
    import jaxfer
    from jaxfer import files
    from jaxfer.commands.run import end

    shared.keep_programs(arguments)
    folder = arguments.workdir or str(files.opened(arguments.runs[0]).parent / f"merged-{arguments.rule}")
    given = {"rule": arguments.rule, "base": arguments.base, "overrides": overrides}
    end(folder, jaxfer.merge(arguments.runs, workdir=folder, **given))
