"""A sweep small enough to run many times: a source, then two methods under three seeds."""

from __future__ import annotations

import csv
import os
import textwrap
from pathlib import Path

CONFIG = """
    import jaxfer.config
    from jaxfer.sweeps import Cell

    def get_config(arg=""):
        config = jaxfer.config.base()
        config.model = dict(name="resnet", stage_sizes=(1,), width=4, stem="cifar", image=(4, 4, 1))
        config.data = dict(source="synthetic", image=(4, 4, 1), examples=40)
        config.parallel.devices = 1
        config.update(batch_size=4, steps=4, save_every=1, log_every=2, method="full")
        if arg:
            config.update(method=arg, init="sibling:source", head="reset")
        return config

    def sweep():
        yield Cell(name="source")
        for method in ("probe", "full"):
            for seed in (0, 1, 2):
                yield Cell(name=f"{method}-{seed}", arg=method, overrides={"seed": seed}, group=method)
"""


def write(folder: Path, extra: str = "") -> str:
    """The path of the config, written into `folder`; `extra` comes after it and may define another `sweep`."""
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(CONFIG) + textwrap.dedent(extra))
    return os.fspath(path)


def without_seconds(table: str) -> list[list[str]]:
    """The lines of a table.csv, cell by cell, without the column of times."""
    lines = list(csv.reader(table.splitlines()))
    at = lines[0].index("seconds")
    return [line[:at] + line[at + 1 :] for line in lines]
