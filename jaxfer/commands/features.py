"""`jaxfer features`: activations of any unit of a finished run or a checkpoint, as an .npz file."""

from __future__ import annotations

import argparse

from jaxfer.commands import shared

HELP = "write activations of any unit of a run or a checkpoint"


def arguments(parser: argparse.ArgumentParser) -> None:
    source = "a run's folder, or a checkpoint and --config.data.source=NAME ..."
    parser.add_argument("run", metavar="RUN_OR_CHECKPOINT", help=source)
    parser.add_argument("--out", required=True, metavar="F.npz", help="the file to write, also gs:// or s3://")
    parser.add_argument("--unit", default="features", help="a unit's name; default: what the output layer reads")
    parser.add_argument("--split", default="val", help="val (default), test or train")
    parser.add_argument("--pool", help="mean: over the tokens of a text, or the places of another input")
    parser.add_argument("--checkpoint", default="result", help="of a run: result (default), last or best")
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import jaxfer
    from jaxfer.parallel import cluster

    cluster.refuse("features")
    shared.keep_programs(arguments)
    found = jaxfer.features(
        arguments.run,
        unit=arguments.unit,
        split=arguments.split,
        pool=arguments.pool,
        checkpoint=arguments.checkpoint,
        overrides=overrides,
    )
    shape = ", ".join(map(str, found.shape))
    print(f"{found.write(arguments.out)}: features [{shape}]")
