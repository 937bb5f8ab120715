"""`jaxfer cache`: what is kept between runs, besides compiled programs."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

HELP = "features and indexes of data kept between runs: list them, or remove them with --clear"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clear", action="store_true", help="remove all of them; they are made again when needed")


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    from jaxfer.data import index
    from jaxfer.errors import InputError
    from jaxfer.training import feature_store

    for name in overrides:
        raise InputError(f"--config.{name}: this command reads no config; remove this override")
    root = feature_store.root()
    if root is None:
        print("nothing is kept: JAXFER_CACHE is off, or there is no home folder")
        return
    if arguments.clear:
        print(f"removed {index.clear()} indexes of data from {index.folder()}")
        print(f"removed {feature_store.clear()} files of features from {root}")
        return
    indexes, kept = index.listed(), feature_store.listed()
    _print(
        ("data", "files", "bytes", "last used"),
        [(each.root, f"{each.files:,}", f"{each.size:,}", _time(each.used)) for each in reversed(indexes)],
    )
    total = sum(each.size for each in indexes)
    print(f"{len(indexes)} indexes of data, {total:,} of at most {index.LIMIT:,} bytes, in {index.folder()}")
    rows = []
    for file in reversed(kept):
        model = str(file.about.get("module", "?")).partition("(")[0]
        rows.append(
            (file.folder.name[:12], model, f"{file.about.get('rows', 0):,}", f"{file.size:,}", _time(file.used))
        )
    _print(("key", "model", "rows", "bytes", "last used"), rows)
    total = sum(file.size for file in kept)
    print(f"{len(kept)} files of features, {total:,} of at most {feature_store.LIMIT:,} bytes, in {root}")


def _print(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table of these columns, the first of names; nothing where there are no rows."""
    from jaxfer import terminal

    if rows:
        columns = (terminal.Column(names[0], terminal.NAME), *map(terminal.Column, names[1:]))
        print(terminal.table(columns, rows, terminal.page_of(sys.stdout)))


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))
