"""`jaxfer track`: tell a run to a tracker, while it goes on or afterwards."""

from __future__ import annotations

import argparse

from jaxfer.commands import shared

HELP = "tell a run to TensorBoard, wandb, MLflow or Trackio, live or afterwards"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a run's folder")
    parser.add_argument("--to", required=True, metavar="TRACKER", help="tensorboard, wandb, mlflow or trackio")
    parser.add_argument("--live", action="store_true", help="follow the run until it ends")
    parser.add_argument("--project", default="", help="or experiment; default: the name of the folder above the run's")
    parser.add_argument(
        "--into",
        default="",
        metavar="PLACE",
        help="tensorboard: folder (default RUN/tb); wandb: folder of its files; mlflow: tracking URI; trackio: server",
    )


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    shared.no_overrides(overrides)
    shared.spare_accelerators()
    from jaxfer import terminal
    from jaxfer.trackers.following import track

    track(
        arguments.run,
        arguments.to,
        live=arguments.live,
        project=arguments.project,
        into=arguments.into,
        say=terminal.say,
    )
