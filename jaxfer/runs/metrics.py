"""metrics.jsonl: the log of a run, one JSON object a line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxfer import json_files
from jaxfer.errors import InputError
from jaxfer.files import remote, remove, write_text
from jaxfer.parallel import cluster
from jaxfer.runs import records

# Fields that hold times, or what had to be computed anew: two runs of one experiment agree on everything else.
TIMES = frozenset({"seconds", "compile_seconds", "input_seconds", "examples_per_second", "features"})


class MetricsLog:
    """metrics.jsonl: one JSON object a line, in step order.

    An object of a store can't be appended to: there, what was logged between two `sync` is a numbered object of its own
    in `metrics/`, and `read_metrics` puts them together.
    """

    def __init__(self, folder: epath.Path):
        self._path = folder / "metrics.jsonl"
        self._unwritten: list[str] = []

    def rewind(self, step: int, *, unevaluated: bool = False) -> None:
        """Drops what was logged after `step`, or by its evaluation too, and a line that a kill left torn."""
        if not cluster.leader():
            return
        last = (step, "train") if unevaluated else (step, "val")  # a step's evaluation is logged after its training
        lines = read_metrics(self._path)
        for line in lines:
            json_files.check(line, records.Line, str(self._path), fix="remove that line")
        kept = [json.dumps(line) + "\n" for line in lines if (line["step"], line["split"]) <= last]
        write_text(self._path, "".join(kept))
        for part in _parts(self._path):  # a kill before this: they say once more what the file says
            remove(part)

    def write(self, line: Mapping[str, Any]) -> None:
        """Appends a line."""
        if not cluster.leader():
            return
        text = json.dumps(dict(line)) + "\n"
        if remote(self._path):
            self._unwritten.append(text)
            return
        with self._path.open("a") as file:
            file.write(text)

    def sync(self) -> None:
        """Flushes to the disk or the object store: a checkpoint must not outlive the lines before it."""
        if not cluster.leader():
            return
        if self._unwritten:
            number = 1 + max((int(part.stem) for part in _parts(self._path)), default=-1)
            write_text(self._path.parent / "metrics" / f"{number:06d}.jsonl", "".join(self._unwritten))
            self._unwritten = []
        elif not remote(self._path) and self._path.exists():
            with open(os.fspath(self._path), "rb") as file:
                os.fsync(file.fileno())


def read_metrics(path: epath.Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics.jsonl and of its parts; a torn last one is left out, a damaged one an error."""
    path, lines = epath.Path(path), {}
    for part in (path, *_parts(path)):
        texts = part.read_bytes().split(b"\n") if part.exists() else []
        for number, text in enumerate(texts, 1):
            if not text.strip():
                continue
            try:
                line = json.loads(text)
                if not isinstance(line, dict):
                    raise ValueError(f"a {type(line).__name__}")
            except (ValueError, RecursionError):
                if number == len(texts):  # without its newline: a kill tore it
                    break
                raise InputError(f"{part}: line {number}: expected a JSON object; remove that line") from None
            lines[text] = line
    return list(lines.values())


TAIL = 1 << 16  # bytes from the end of a metrics.jsonl that tell how far its run is


def last_lines(path: epath.Path) -> list[dict[str, Any]]:
    """The whole lines in the last 64 KiB of a metrics.jsonl, checked; [] where there is none. In a store: all of it."""
    if remote(path):
        lines = read_metrics(path)
    elif not path.exists():
        return []
    elif not os.path.isfile(path):  # opening a pipe would block
        raise InputError(f"{path}: expected a file, found none; remove it")
    else:
        with open(os.fspath(path), "rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - TAIL, 0))
            begun = file.tell() > 0
            texts = file.read().split(b"\n")[begun:-1]  # what is cut off at either end is no line
        try:
            lines = [json.loads(text) for text in texts if text.strip()]
        except (ValueError, RecursionError):
            lines = read_metrics(path)  # says which line is wrong
    for line in lines:
        if not (isinstance(line, dict) and type(line.get("step")) is int and isinstance(line.get("split"), str)):
            json_files.check(line, records.Line, str(path), fix="remove that line")  # slow
    return lines


def _parts(path: epath.Path) -> list[epath.Path]:
    folder = path.parent / "metrics"
    return sorted(folder.glob("*.jsonl")) if remote(path) and folder.exists() else []
