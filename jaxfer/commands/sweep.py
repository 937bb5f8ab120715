"""`jaxfer sweep`: run every cell of the config's sweep() and write the table."""

from __future__ import annotations

import argparse

from jaxfer.commands import shared

HELP = "run every cell of the config's sweep() and write the table"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=shared.CONFIG)
    parser.add_argument("--workdir", help="the sweep's folder; default runs/CONFIG/sweep")
    shared.add_executor(parser)
    draws = "the cells of sweep(): grid (default); draws of space(trial): random, halving, hyperband, optuna"
    parser.add_argument("--sampler", help=draws)
    parser.add_argument("--trials", type=int, help="random, halving, optuna: how many cells to draw")
    parser.add_argument("--sampler-seed", type=int, help="of the draws (default 0)")
    parser.add_argument("--eta", type=int, help="halving, hyperband: by how much each rung is longer (default 3)")
    parser.add_argument("--least", type=int, help="halving, hyperband: steps of the first rung")
    parser.add_argument("--algorithm", help="optuna: one of its samplers (default TPE)")
    parser.add_argument("--storage", help="optuna: URL of a database; default a journal in the sweep's folder")
    parser.add_argument("--ask", type=int, help="optuna: trials drawn together, whatever runs them (default 4)")
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    shared.resumable()
    import jaxfer
    from jaxfer.parallel import cluster
    from jaxfer.sweeps import samplers

    cluster.refuse("sweep")
    shared.keep_programs(arguments, say=True)
    folder = shared.workdir(arguments, "sweep")
    chosen = samplers.make(arguments.sampler, **{name: getattr(arguments, name) for name in samplers.OPTIONS})
    running = dict(executor=shared.executor(arguments), sampler=chosen)
    return jaxfer.sweep(arguments.config, folder, overrides=overrides, **running).exit_code
