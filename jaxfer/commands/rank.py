"""`jaxfer rank`: which pretrained checkpoint to start from, by scores of frozen features of the training split."""

from __future__ import annotations

import argparse
import sys

from jaxfer.commands import shared

HELP = "rank pretrained checkpoints for a config's data, and their layers, without training"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=shared.CONFIG)
    parser.add_argument(
        "--candidates", required=True, metavar="A,B,...", help="what config.init may be, or runs' folders"
    )
    parser.add_argument(
        "--scores", metavar="NAME,...", help="those to compute (default: all); docs/evidence.md has them"
    )
    parser.add_argument("--by", default="logme", help="the score that ranks (logme)")
    parser.add_argument("--layers", action="store_true", help="also that score for each unit: where to cut")
    parser.add_argument("--runs", default="", metavar="FOLDER,...", help="with runs, to say what the scores were worth")
    parser.add_argument("--out", metavar="FOLDER", help="write rank.json there, with all numbers")
    parser.add_argument("--seed", type=int, default=0, help="of scores that draw at random (0)")
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import jaxfer
    from jaxfer import terminal
    from jaxfer.evals.transferability import SCORES
    from jaxfer.parallel import cluster

    cluster.refuse("rank")
    shared.keep_programs(arguments)
    scores = tuple(SCORES) if arguments.scores is None else _listed(arguments.scores)
    arguments.workdir = None
    ranking = jaxfer.rank(
        arguments.config,
        _listed(arguments.candidates),
        scores=scores,
        by=arguments.by,
        layers=arguments.layers,
        runs=_listed(arguments.runs),
        out=arguments.out,
        seed=arguments.seed,
        place=shared.workdir(arguments, "rank"),
        overrides=overrides,
    )
    print(ranking.text(terminal.page_of(sys.stdout)))


def _listed(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
