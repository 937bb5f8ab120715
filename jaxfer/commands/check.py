"""`jaxfer check`: the conformance suite on one method, model, task or source, a line for each property."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path

from jaxfer import registry
from jaxfer.errors import InputError

HELP = "check one method, model, task or source against its contract, one line per property"


def arguments(parser: argparse.ArgumentParser) -> None:
    kinds = [room.word for room in registry.ROOMS]
    parser.add_argument("kind", choices=kinds, metavar="KIND", help=", ".join(kinds))
    parser.add_argument("name", help="the file's name")
    parser.add_argument("--folder", default=".", help="your repository (default: the current folder)")


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> int:
    """0: it keeps the contract; 1: it breaks a property."""
    options = {name.removeprefix("data."): value for name, value in overrides.items() if name.startswith("data.")}
    for name in overrides:
        if not name.startswith("data.") or arguments.kind != "source":
            raise InputError(f"--config.{name}: only a source takes options, such as --config.data.path=...")
    folder = Path(arguments.folder).resolve()
    registry.use(str(place) for place in (folder, folder / "configs") if place.is_dir())
    import jax

    with contextlib.suppress(RuntimeError):  # a process that computes already keeps its devices
        jax.config.update("jax_num_cpu_devices", 4)  # some properties compare one device with four
    from jaxfer import conformance

    check = getattr(conformance, f"check_{arguments.kind}")
    broken = 0
    for what, problem in check(arguments.name, **options):
        broken += problem is not None
        print(f"ok      {what}" if problem is None else f"BROKEN  {what}: {problem}", flush=True)
    verdict = "keeps the contract" if not broken else f"breaks {broken} of its properties"
    print(f"{arguments.kind} {arguments.name} {verdict}")
    return 1 if broken else 0
