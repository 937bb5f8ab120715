"""A run on disk: who owns a folder, and files that a kill can't tear.

config.json · ledger.json · params.txt · metrics.jsonl · checkpoints/ · result.json
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import fsspec
from etils import epath
from ml_collections import ConfigDict

from jaxfer import config
from jaxfer.config.experiment import Experiment
from jaxfer.errors import InputError
from jaxfer.parallel import cluster

# Object stores, and what epath reads them with.
STORES = {"gs": "gcsfs", "s3": "s3fs"}
# Fields that hold times: two runs of one experiment agree on everything else.
TIMES = frozenset({"seconds", "compile_seconds", "input_seconds", "examples_per_second"})


def write_json(path: epath.Path, value: Any) -> None:
    """Atomically: a reader sees the old file or the new one, whole."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_text(path: epath.Path, text: str) -> None:
    """Atomically, as UTF-8."""
    write_bytes(path, text.encode())


def write_bytes(path: epath.Path, data: bytes) -> None:
    """Atomically, on a disk through a temporary file beside it; of several processes the first does."""
    if not cluster.leader():
        return
    path = epath.Path(path)
    if remote(path):
        path.write_bytes(data)
        return
    temporary = path.parent / f".{path.name}.tmp"
    temporary.write_bytes(data)
    temporary.replace(path)


def remove(path: epath.Path) -> None:
    """A file of the run that no longer holds; gone already is fine."""
    if cluster.leader():
        epath.Path(path).unlink(missing_ok=True)


def read_json(path: epath.Path) -> Any:
    """The JSON value of a file; `InputError` where it is none."""
    try:
        return json.loads(epath.Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a JSON file of a run: {error}") from None


def stored_experiment(folder: epath.Path) -> Experiment:
    """The experiment that a folder belongs to."""
    return config.resolve(ConfigDict(read_json(folder / "config.json")))


def check_owner(folder: epath.Path, experiment: Experiment) -> None:
    """`InputError` with the differing fields where the folder holds a run of another experiment.

    An unfinished run keeps its length unless its rate is constant: another length would be another schedule midway.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"expected a folder to run in, found the file {folder}; use another --workdir")
    if not (folder / "config.json").exists():
        return
    stored = stored_experiment(folder)
    theirs, ours = stored.identity(), experiment.identity()
    differing = [
        f"{name}: {theirs.get(name, 'absent')!r} there, {ours.get(name, 'absent')!r} here"
        for name in sorted({*theirs, *ours})
        if theirs.get(name, "absent") != ours.get(name, "absent")
    ]
    if differing:
        shown = "; ".join(differing[:8]) + (f"; and {len(differing) - 8} more" if len(differing) > 8 else "")
        raise InputError(f"{folder} holds a run of another config ({shown}); use another --workdir")
    (_, before), (_, now) = stored.stages[-1], experiment.stages[-1]
    if before.steps != now.steps and now.schedule != "constant" and not (folder / "result.json").exists():
        raise InputError(
            f"{folder} holds an unfinished run whose last stage has {before.steps} steps, here {now.steps}: that would "
            f"bend its {now.schedule} schedule midway; finish it first, or use another --workdir"
        )


@contextlib.contextmanager
def locked(folder: epath.Path) -> Iterator[None]:
    """Holds the folder against a second run; the lock of a killed process is gone with it.

    A store has no locks: nothing keeps a second run out of a folder there.
    """
    if not cluster.leader():
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    if remote(folder):
        yield
        return
    import fcntl

    with open(os.fspath(folder / ".lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(f"{folder} is in use by another process; wait for it or use another --workdir") from None
        yield


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
        kept = [json.dumps(line) + "\n" for line in read_metrics(self._path) if (line["step"], line["split"]) <= last]
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
        """To the disk itself, or the store: a checkpoint must not outlive the lines before it."""
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
    """The whole lines of a metrics.jsonl and of its parts; a torn last one is left out."""
    path, lines = epath.Path(path), {}
    for part in (path, *_parts(path)):
        for text in part.read_text().splitlines() if part.exists() else []:
            try:
                line = json.loads(text)
            except ValueError:
                break
            lines[text] = line
    return list(lines.values())


def _parts(path: epath.Path) -> list[epath.Path]:
    folder = path.parent / "metrics"
    return sorted(folder.glob("*.jsonl")) if remote(path) and folder.exists() else []


def opened(folder: str | epath.Path) -> epath.Path:
    """A path that can be a run's, on a disk or in a store; `InputError` for another, or where a package is missing."""
    scheme, _, _ = str(folder).rpartition("://")
    if scheme and scheme not in STORES:
        raise InputError(f"{folder}: expected a folder, gs:// or s3://")
    if scheme:
        fsspec.config.conf.setdefault(scheme, {})["use_listings_cache"] = False  # another host may have written since
    try:
        path = epath.Path(folder)
        path.exists()
    except ImportError:
        raise InputError(f"{folder} needs the package {STORES[scheme]}; pip install 'jaxfer[{scheme}]'") from None
    except Exception as error:
        if not scheme:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise InputError(f"{folder} can't be reached ({reason}); correct the bucket or your credentials") from None
    return path


def remote(path: epath.Path) -> bool:
    """Whether it is an object of a store, `gs://` or `s3://`: written whole or not at all, and never appended to."""
    return "://" in str(path)
