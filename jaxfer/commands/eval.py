"""`jaxfer eval`: evaluate a finished run or a checkpoint, also on other data."""

from __future__ import annotations

import argparse
import sys

from jaxfer.commands import shared
from jaxfer.errors import InputError

HELP = "evaluate a finished run or a checkpoint, optionally on another data set"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run's folder, or a checkpoint with a head and --config.data.source=NAME ...")
    parser.add_argument("--split", default="val", help="val (default), test or train")
    parser.add_argument("--checkpoint", default="result", help="result (default), last, best, or a kept step")
    table = "of a classification: write a row for each example there, the most confident mistakes first"
    parser.add_argument("--predictions", metavar="FILE.csv", help=table)
    worse = "also under corruptions (15 of images, typos and case of texts), or those named: fog,snow"
    parser.add_argument("--corruptions", metavar="NAMES", nargs="?", const="", help=worse)
    parser.add_argument("--severity", type=int, help="of the corruptions, 1 to 5; default 3")
    sure = "of a classification: its calibration, also with its outputs divided by the temperature that fits val"
    parser.add_argument("--temperature", action="store_true", help=sure)
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import jaxfer

    shared.keep_programs(arguments)
    if arguments.corruptions is None and arguments.severity is not None:
        raise InputError("--severity is that of --corruptions; add these, or leave it out")
    if arguments.temperature and (arguments.corruptions is not None or arguments.predictions):
        raise InputError("--temperature evaluates the split as it is; leave out --corruptions and --predictions")
    if arguments.temperature:
        _calibrated(arguments, overrides)
        return
    if arguments.corruptions is not None:
        _corrupted(arguments, overrides)
        return
    metrics = jaxfer.evaluate(
        arguments.run,
        split=arguments.split,
        checkpoint=arguments.checkpoint,
        overrides=overrides,
        predictions=arguments.predictions,
    )
    print(shared.numbers(metrics, f"{arguments.split}: "))


def _calibrated(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Prints the classifier's calibration on a split, as it is and with its outputs divided by val's temperature."""
    import jaxfer
    from jaxfer.terminal import NAME, NUMBER, Column, page_of, table

    found = jaxfer.calibrate(arguments.run, split=arguments.split, checkpoint=arguments.checkpoint, overrides=overrides)
    rows = [("as it is", found.before), (f"divided by {found.temperature:.4g}", found.after)]
    columns = [Column(arguments.split, NAME), *(Column(name, NUMBER) for name in found.before)]
    told = [(name, *(f"{value:.4f}" for value in values.values())) for name, values in rows]
    print(table(columns, told, page_of(sys.stdout)))
    print(f"temperature {found.temperature:.6g}, fitted to val; above 1: overconfident")


def _corrupted(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    """Prints the task's metric as it is, under each corruption, and the mean of these."""
    import jaxfer
    from jaxfer.terminal import NAME, NUMBER, Column, page_of, table
    from jaxfer.training.robustness import CLEAN, SEVERITY, mean

    if arguments.predictions:
        raise InputError("--predictions are of the split as it is; leave out --corruptions")
    severity = SEVERITY if arguments.severity is None else arguments.severity
    found = jaxfer.robustness(
        arguments.run,
        split=arguments.split,
        severity=severity,
        corruptions=[name for name in arguments.corruptions.split(",") if name],
        checkpoint=arguments.checkpoint,
        overrides=overrides,
    )
    metrics = [name for name in found[CLEAN] if name != "loss"] or ["loss"]
    rows = [(name, *(f"{values[metric]:.4f}" for metric in metrics)) for name, values in found.items()]
    rows.append((f"mean at severity {severity}", *(f"{mean(found, metric):.4f}" for metric in metrics)))
    columns = [Column(arguments.split, NAME), *(Column(metric, NUMBER) for metric in metrics)]
    print(table(columns, rows, page_of(sys.stdout)))
