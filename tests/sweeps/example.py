"""A sweep small enough to run many times: a source, then two methods under three seeds."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import jaxfer

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


def swept(folder: Path, extra: str = "") -> tuple[str, Path, dict[str, str]]:
    """(config, folder, variables) of the sweep, run in this process with a cache of its own, which these name."""
    spec, cache = write(folder, extra), os.fspath(folder / "cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXFER_CACHE", cache)
        jaxfer.sweep(spec, folder / "sweep", quiet=True)
    return spec, folder / "sweep", {**os.environ, "JAXFER_CACHE": cache}


def said(process: subprocess.Popen) -> str:
    """What a process that is given up wrote."""
    process.kill()
    return process.stderr.read()


def wait_for_a_cell(folder: Path, process: subprocess.Popen) -> None:
    """Until a sweep of another process has begun its first cell."""
    until = time.monotonic() + 180
    while not list(folder.glob("cells/*/config.json")):
        assert process.poll() is None and time.monotonic() < until, said(process)
        time.sleep(0.02)


def kill_after(count: int, folder: Path, command: list[str], **options: Any) -> None:
    """Starts a command, and kills it once so many cells of the folder have ended; `options` are those of `Popen`."""
    process = subprocess.Popen(command, **options)
    until = time.monotonic() + 180
    while len(list(folder.glob("cells/*/result.json"))) < count:
        assert process.poll() is None and time.monotonic() < until, said(process)
        time.sleep(0.02)
    process.kill()
    process.communicate()


def check_same(folder: Path, other: Path) -> None:
    """The tables of two sweeps but for seconds, their indices, and every parameter."""
    ours, theirs = ((f / "table.csv").read_text() for f in (folder, other))
    assert without_seconds(ours) == without_seconds(theirs)
    assert (folder / "cells.json").read_bytes() == (other / "cells.json").read_bytes()
    for cell in json.loads((folder / "cells.json").read_text()):
        mine, its = (json.loads((f / cell["folder"] / "result.json").read_text()) for f in (folder, other))
        assert mine["lineage"] == its["lineage"] and mine["metrics"] == its["metrics"]


def without_seconds(table: str) -> list[list[str]]:
    """The lines of a table.csv, cell by cell, without the column of times."""
    lines = list(csv.reader(table.splitlines()))
    at = lines[0].index("seconds")
    return [line[:at] + line[at + 1 :] for line in lines]
