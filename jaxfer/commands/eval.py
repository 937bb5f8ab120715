"""`jaxfer eval`: evaluate a finished run or a checkpoint, also on other data."""

from __future__ import annotations

import argparse

from jaxfer.commands import shared

HELP = "evaluate a finished run or a checkpoint, optionally on another data set"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run's folder, or a checkpoint with a head and --config.data.source=NAME ...")
    parser.add_argument("--split", default="val", help="val (default), test or train")
    parser.add_argument("--checkpoint", default="result", help="result (default), last, best, or a kept step")
    table = "of a classification: write a row for each example there, the most confident mistakes first"
    parser.add_argument("--predictions", metavar="FILE.csv", help=table)
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import jaxfer

    shared.keep_programs(arguments)
    metrics = jaxfer.evaluate(
        arguments.run,
        split=arguments.split,
        checkpoint=arguments.checkpoint,
        overrides=overrides,
        predictions=arguments.predictions,
    )
    print(shared.numbers(metrics, f"{arguments.split}: "))
