"""`jaxfer compare`: tune every method alike, read test once, say whether transfer helped."""

from __future__ import annotations

import argparse

from jaxfer.commands import shared

HELP = "tune every method alike, read test once, say whether transfer helped"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=shared.CONFIG)
    parser.add_argument("--workdir", help="the comparison's folder; default runs/CONFIG/compare")
    shared.add_executor(parser)
    tried = "config.compare.trials settings: of each grid (default); between its ends: random, optuna"
    shared.add_sampler(parser, tried)
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    shared.resumable()
    import jaxfer
    from jaxfer.comparison import samplers
    from jaxfer.parallel import cluster

    cluster.refuse("compare")
    folder = shared.workdir(arguments, "compare")
    running = dict(executor=shared.executor(arguments), sampler=samplers.make(**shared.sampler_options(arguments)))
    shared.keep_programs(arguments, say=True)
    jaxfer.compare(arguments.config, folder, overrides=overrides, **running)
