"""`jaxfer find-lr`: the loss of the first steps under a rising rate, as a picture and a suggestion per group."""

from __future__ import annotations

import argparse

from jaxfer.commands import shared
from jaxfer.errors import InputError

HELP = "draw the loss under a rising rate and suggest one for each group; no effect on any run"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", help=shared.CONFIG)
    parser.add_argument("--png", default="find_lr.png", help="the picture (default find_lr.png)")
    shared.add_place(parser)
    parser.add_argument("--steps", type=int, default=60, help="number of rates (default 60)")
    parser.add_argument("--low", type=float, default=1e-6, help="the first rate (default 1e-6)")
    parser.add_argument("--high", type=float, default=1.0, help="the last rate (default 1)")
    shared.add_nocache(parser)


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    if not arguments.png.endswith(".png"):
        raise InputError(f"--png: expected a file that ends in .png, found {arguments.png!r}")
    import jaxfer
    from jaxfer import terminal
    from jaxfer.figures import rates

    shared.keep_programs(arguments)
    folder = shared.workdir(arguments)
    config = jaxfer.load(arguments.config, overrides)
    curve = jaxfer.find_lr(config, folder, steps=arguments.steps, low=arguments.low, high=arguments.high)
    for line in curve.lines():
        terminal.say(line)
    rates.curve(curve.rates, curve.losses, curve.smoothed, curve.suggestions(), arguments.png)
    terminal.say(f"{len(curve.losses)} rates from {curve.rates[0]:.2g} to {curve.rates[-1]:.2g} are in {arguments.png}")
