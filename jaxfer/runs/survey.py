"""The runs below a folder, read from config.json, result.json and the end of metrics.jsonl: thousands in seconds."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from etils import epath

from jaxfer import files, json_files
from jaxfer.errors import InputError
from jaxfer.runs import history, records
from jaxfer.runs.folder import read_result
from jaxfer.runs.metrics import last_lines

# What a run's folder holds besides files, and no run.
INNER = frozenset({"checkpoints", "checkpoints_frozen", "tokenizer", "profile", "metrics", "tb"})
FINISHED, DIVERGED, FAILED, UNFINISHED, DAMAGED = "finished", "diverged", "failed", "unfinished", "damaged"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A run as its files describe it.

    Attributes:
      name: its folder below the one that was asked for; a cell of a sweep or a comparison has the cell's name instead
        of its address.
      folder: where it lies.
      state: `finished`, `unfinished`, `diverged`, `failed` (the last two of cells alone) or `damaged`.
      step: last logged step, or the result's.
      steps: of all stages.
      config: {dotted field: value} of its config.json.
      scores: {`val.accuracy`: value} of its result, else of its last evaluation.
      cost: {field: value} of its result's `cost`, without its sections.
      monitor: metric of its task; empty if unknown.
      problem: of a damaged run, why it can't be read.
    """

    name: str
    folder: str
    state: str
    step: int = 0
    steps: int = 0
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
    cost: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    monitor: str = ""
    problem: str = ""

    def fields(self) -> dict[str, Any]:
        """{name: value} of all that a table can show, sort and filter by."""
        own = {"name": self.name, "folder": self.folder, "state": self.state, "step": self.step, "steps": self.steps}
        return {**self.config, **self.scores, **self.cost, **own}


def survey(folder: str | epath.Path, *, outside: bool = True) -> list[Run]:
    """Every run in `folder` or below it, by name.

    Args:
      folder: on a disk or in a store.
      outside: follow links that lead out of the folder; else they are left out.

    Raises:
      InputError: no such folder, or no run there.
    """
    root = files.opened(folder)
    if not root.is_dir():
        raise InputError(f"expected a folder with runs, found {'a file' if root.exists() else 'nothing'} at {root}")
    bound = "" if outside or files.remote(root) else os.path.realpath(root)
    runs = sorted(_below(root, "", {}, set(), bound), key=lambda run: run.name)
    if not runs:
        raise InputError(f"no run in {root} or below it: expected folders that `jaxfer run`, sweep or compare wrote")
    return runs


def leads_out(path: str | os.PathLike[str], bound: str) -> bool:
    """Whether the path is a link to something outside of `bound`, a folder's real path."""
    return os.path.islink(path) and not os.path.realpath(path).startswith(os.path.join(bound, ""))


def _below(folder: epath.Path, name: str, cells: Mapping[str, str], seen: set[str], bound: str) -> Iterator[Run]:
    """The runs in a folder called `name`.

    `cells` has names for its children, `seen` what was entered before; no link is followed out of `bound`.
    """
    real = str(folder) if files.remote(folder) else os.path.realpath(folder)
    if real in seen:  # by way of a link
        return
    seen.add(real)
    shown = name or os.path.basename(real)
    try:
        entries = {entry.name: entry for entry in folder.iterdir() if not (bound and leads_out(entry, bound))}
    except OSError as error:  # another user's
        problem = f"{folder} can't be listed ({error.strerror}); correct its permissions"
        yield Run(name=shown, folder=str(folder), state=DAMAGED, problem=problem)
        return
    if "config.json" in entries:
        try:
            content = files.read_json(entries["config.json"])
            if "stages" in content:  # other people's checkpoints have a config.json too
                yield _run(folder, shown, content, entries)
        except InputError as error:
            yield Run(name=shown, folder=str(folder), state=DAMAGED, problem=str(error))
    named = _cells(entries["cells.json"]) if "cells.json" in entries else {}
    for entry in entries.values():
        if entry.name in INNER or entry.name.startswith(".") or not entry.is_dir():
            continue
        if entry.name == "cells" and named:  # a level that no name needs
            yield from _below(entry, name, named, seen, bound)
        else:
            inner = cells.get(entry.name, entry.name)
            yield from _below(entry, f"{name}/{inner}" if name else inner, {}, seen, bound)


def _cells(index: epath.Path) -> dict[str, str]:
    """{name of a cell's folder: its name} of a sweep's cells.json; without it a cell is called by its address."""
    try:
        if not files.remote(index) and not os.path.isfile(index):  # opening a pipe would block
            return {}
        return {cell["folder"].rpartition("/")[2]: cell["name"] for cell in json.loads(index.read_text())}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return {}


def _run(folder: epath.Path, name: str, content: dict[str, Any], entries: Mapping[str, epath.Path]) -> Run:
    json_files.check(content, records.StoredConfig, str(folder / "config.json"), fix=files.FIX)
    try:
        by, steps = history.monitor(content), history.total_steps(content)
    except (KeyError, TypeError):
        raise InputError(f"{folder / 'config.json'}: its stages or its task are incomplete; {files.FIX}") from None
    told = {
        "name": name,
        "folder": str(folder),
        "steps": steps,
        "config": history.flattened({key: value for key, value in content.items() if key != "rooms"}),
        "monitor": by.metric if by else "",
    }
    if "result.json" in entries:
        result = read_result(folder)
        cost = {key: value for key, value in result["cost"].items() if not isinstance(value, Mapping)}
        scores = history.flattened({split: result["metrics"][split] for split in sorted(result["metrics"])[::-1]})
        return Run(**told, state=FINISHED, step=result["steps"], scores=scores, cost=cost)
    state = next((s for s, mark in ((DIVERGED, "diverged.json"), (FAILED, "error.txt")) if mark in entries), UNFINISHED)
    lines = last_lines(folder / "metrics.jsonl") if "metrics.jsonl" in entries or files.remote(folder) else []
    if not lines:
        return Run(**told, state=state)
    last = next((line for line in reversed(lines) if line["split"] == "val"), {"split": "val"})
    scores = {f"val.{metric}": value for metric, value in history.metrics(last).items()}
    cost = {"seconds": lines[-1]["seconds"]} if "seconds" in lines[-1] else {}
    return Run(**told, state=state, step=lines[-1]["step"], scores=scores, cost=cost)
