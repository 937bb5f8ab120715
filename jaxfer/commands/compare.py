"""`jaxfer compare`: tune every method alike, read test once, say whether transfer helped."""

from __future__ import annotations

import argparse

from jaxfer.commands import shared

HELP = "tune every method alike, read test once, say whether transfer helped"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=shared.CONFIG)
    parser.add_argument("--workdir", help="the comparison's folder; default runs/CONFIG/compare")
    shared.add_executor(parser)
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    shared.resumable()
    import jaxfer
    from jaxfer.parallel import cluster

    cluster.refuse("compare")
    shared.keep_programs(arguments, say=True)
    folder = shared.workdir(arguments, "compare")
    jaxfer.compare(arguments.config, folder, overrides=overrides, executor=shared.executor(arguments))
