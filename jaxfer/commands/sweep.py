"""`jaxfer sweep`: run every cell of the config's sweep() and write the table."""

from __future__ import annotations

import argparse

from jaxfer.commands import shared

HELP = "run every cell of the config's sweep() and write the table"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=shared.CONFIG)
    parser.add_argument("--workdir", help="the sweep's folder; default runs/CONFIG/sweep")
    shared.add_executor(parser)
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    shared.resumable()
    import jaxfer
    from jaxfer.parallel import cluster

    cluster.refuse("sweep")
    shared.keep_programs(arguments, say=True)
    folder = shared.workdir(arguments, "sweep")
    return jaxfer.sweep(arguments.config, folder, overrides=overrides, executor=shared.executor(arguments)).exit_code
