"""`jaxfer sweep`: run every cell of the config's sweep() and write the table."""

from __future__ import annotations

import argparse

from jaxfer.commands import shared

HELP = "run every cell of the config's sweep() and write the table"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=shared.CONFIG)
    parser.add_argument("--workdir", help="the sweep's folder; default runs/CONFIG/sweep")
    shared.add_executor(parser)
    draws = "the cells of sweep(): grid (default); draws of space(trial): random, halving, asha, hyperband, optuna"
    shared.add_sampler(parser, draws)
    parser.add_argument("--trials", type=int, help="random, halving, asha, optuna: how many cells to draw")
    parser.add_argument("--eta", type=int, help="halving, asha, hyperband: by how much each rung is longer (default 3)")
    parser.add_argument("--least", type=int, help="halving, asha, hyperband: steps of the first rung")
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    shared.resumable()
    import jaxfer
    from jaxfer.parallel import cluster
    from jaxfer.sweeps import samplers

    cluster.refuse("sweep")
    folder = shared.workdir(arguments, "sweep")
    chosen = samplers.make(**shared.sampler_options(arguments))
    running = dict(executor=shared.executor(arguments), sampler=chosen)
    shared.keep_programs(arguments, say=True)
    return jaxfer.sweep(arguments.config, folder, overrides=overrides, **running).exit_code
