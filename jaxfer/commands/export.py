"""`jaxfer export`: write a finished run in another tool's format."""

from __future__ import annotations

import argparse

from jaxfer.commands import shared
from jaxfer.errors import InputError

HELP = "write a finished run in another tool's format"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the run's folder")
    formats = "hf (default), sentence-transformers (tokens pooled), peft (the adapter alone) or torchvision"
    parser.add_argument("--format", default="hf", help=formats)
    parser.add_argument("--out", help="the folder to write; default RUN/export-FORMAT")


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    shared.no_overrides(overrides)
    import jaxfer

    if arguments.out == "":
        raise InputError("--out: expected a folder, found ''; name one, or omit --out")
    print(jaxfer.export(arguments.run, format=arguments.format, out=arguments.out))
