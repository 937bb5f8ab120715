"""`jaxfer export`: write a finished run in another tool's format."""

from __future__ import annotations

import argparse

from jaxfer.commands import shared
from jaxfer.errors import InputError

HELP = "write a finished run in another tool's format"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="the run's folder; with --as=lora also a peft adapter's")
    formats = "hf (default), sentence-transformers (tokens pooled), peft (the adapter alone) or torchvision"
    parser.add_argument("--format", default="hf", help=formats)
    parser.add_argument(
        "--as", dest="kind", choices=("lora",), help="of peft: what was done to layers' weights, as LoRA of --rank"
    )
    parser.add_argument("--rank", type=int, help="of --as=lora; prints the relative error of each layer")
    parser.add_argument("--out", help="the folder to write; default RUN/export-FORMAT")


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    shared.no_overrides(overrides)
    import jaxfer
    from jaxfer import files
    from jaxfer.pretrained.hub import MARKER

    if arguments.out == "":
        raise InputError("--out: expected a folder, found ''; name one, or omit --out")
    if (arguments.kind is None) != (arguments.rank is None):
        raise InputError("--as=lora and --rank=R go together; give both, or neither")
    folder = jaxfer.export(arguments.run, format=arguments.format, out=arguments.out, as_lora=arguments.rank)
    if arguments.rank is not None:
        errors = files.read_json(folder / MARKER)["as_lora"]["error"]
        for module, error in errors.items():
            print(f"{error:8.1e}  {module}")
        print(f"relative error of rank {arguments.rank}: at most {max(errors.values()):.1e} over {len(errors)} layers")
    print(folder)
