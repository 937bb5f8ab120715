"""`jaxfer ui`: a folder of runs in the browser."""

from __future__ import annotations

import argparse
import sys

from jaxfer.commands import shared
from jaxfer.errors import InputError

HELP = "show a folder of runs in the browser: a table, reports, live sweeps"
PORT = 8265


def arguments(parser: argparse.ArgumentParser) -> None:
    shown = "of runs, sweeps, comparisons, rankings or diagnoses (default runs)"
    parser.add_argument("folder", nargs="?", default="runs", help=shown)
    parser.add_argument("--port", type=int, default=PORT, help=f"of 127.0.0.1 (default {PORT}); 0: any that is free")


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    for name in overrides:
        raise InputError(f"--config.{name}: this command reads no config; remove it")
    shared.spare_accelerators()
    from jaxfer import terminal
    from jaxfer.ui import serve

    def say(line: str) -> None:
        terminal.say(line)
        sys.stdout.flush()  # into a pipe too, whose reader waits for the address

    serve(arguments.folder, port=arguments.port, say=say)
