"""`jaxfer cache`: what is kept between runs."""

from __future__ import annotations

import argparse

HELP = "features kept between runs: list them, or remove them with --clear"


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clear", action="store_true", help="remove all features; they are computed again when needed")


def command(arguments: argparse.Namespace, overrides: dict[str, str]) -> None:
    import sys
    import time

    from jaxfer import terminal
    from jaxfer.errors import InputError
    from jaxfer.terminal import NAME, Column
    from jaxfer.training import feature_store

    for name in overrides:
        raise InputError(f"--config.{name}: this command reads no config; remove this override")
    root = feature_store.root()
    if root is None:
        print("nothing is kept: JAXFER_CACHE is off, or there is no home folder")
        return
    if arguments.clear:
        print(f"removed {feature_store.clear()} files of features from {root}")
        return
    kept = feature_store.listed()
    rows = []
    for file in reversed(kept):
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(file.used))
        model = str(file.about.get("module", "?")).partition("(")[0]
        rows.append((file.folder.name[:12], model, f"{file.about.get('rows', 0):,}", f"{file.size:,}", used))
    if rows:
        columns = (Column("key", NAME), *map(Column, ("model", "rows", "bytes", "last used")))
        print(terminal.table(columns, rows, terminal.page_of(sys.stdout)))
    total = sum(file.size for file in kept)
    print(f"{len(kept)} files of features, {total:,} of at most {feature_store.LIMIT:,} bytes, in {root}")
