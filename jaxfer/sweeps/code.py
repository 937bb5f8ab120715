"""The code that a cell's numbers depend on, as one hash: part of the cell's address.

Files that compute count, by an explicit list; of the rooms found by file only those that the experiment names. So a new
plot, command, chip or model family leaves finished cells valid, and a changed step does not.
"""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

import jaxfer
from jaxfer.config.experiment import Experiment
from jaxfer.registry import ADDS, METHODS, MODELS, SOURCES, TASKS, Room

# Files and folders that every experiment runs. `sources` are a room's, counted by name.
COMPUTES = (
    "rules.py",
    "stored.py",
    "state.py",
    "task.py",
    "method.py",
    "measuring.py",
    "optim",
    "linear",
    "merging",
    "ports.py",
    "stages.py",
    "freezing.py",
    "streams.py",
    "step.py",
    "data/corruptions",
    "data/split.py",
    "data/prepare.py",
    "data/held_out.py",
    "data/streams.py",
    "data/lookup.py",
    "data/index.py",
    "data/order.py",
    "data/loader.py",
    "data/encoding.py",
    "data/encodings",
    "parallel/placement.py",
    "parallel/sharding.py",
    "training/cached.py",
    "training/cut.py",
    "training/entering.py",
    "training/feature_store.py",
    "training/evaluation.py",
    "training/examples.py",
    "training/fitting.py",
    "training/fitted.py",
    "training/measured.py",
    "training/merging.py",
    "training/many_steps.py",
    "training/passes.py",
    "training/source_options.py",
    "training/streams.py",
    "training/teachers.py",
    "network.py",
    "training/session.py",
    "training/stepping.py",
    "training/stopping.py",
    "training/blocks.py",
    "training/members.py",
    "training/programs.py",
)
# Code that reads weights, for cells that start from some.
READS_WEIGHTS = "pretrained"
FAMILIES = "pretrained/families"


def code_version(experiment: Experiment) -> str:
    """sha256 (hex) over the source files that this experiment's numbers can depend on, a user's own among them."""
    named = {(METHODS, stage.method) for _, stage in experiment.stages}
    named |= {(ADDS, name) for _, stage in experiment.stages for name in stage.adds}
    named |= {(TASKS, stage.task) for _, stage in experiment.stages if stage.task}
    named |= {(MODELS, experiment.model.name), (TASKS, experiment.task.name), (SOURCES, experiment.source.name)}
    named |= {(TASKS, stream.task) for _, stream in experiment.streams if stream.task}
    named |= {(SOURCES, stream.source.name) for _, stream in experiment.streams if stream.source is not None}
    if experiment.networks:  # of any model
        named |= {(MODELS, name) for name in MODELS.names()}
    return _version(frozenset(named), experiment.run.init != "scratch" or bool(experiment.networks))


@functools.lru_cache(maxsize=64)
def _version(named: frozenset[tuple[Room, str]], weights: bool) -> str:
    root = Path(jaxfer.__file__).parent
    files = {file.relative_to(root).as_posix(): file for entry in COMPUTES for file in _python(root / entry)}
    if weights:
        others = {f"{FAMILIES}/{name}.py" for name in MODELS.names()} - {
            f"{FAMILIES}/{name}.py" for room, name in named if room == MODELS
        }
        reading = {file.relative_to(root).as_posix(): file for file in _python(root / READS_WEIGHTS)}
        files |= {name: file for name, file in reading.items() if name not in others}
    for room, name in named:
        files |= {f"{room.folder}/{file.name}": file for file in room.sources(name)}
    digest = hashlib.sha256()
    for name, file in sorted(files.items()):
        digest.update(f"{name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def _python(path: Path) -> list[Path]:
    return sorted(path.rglob("*.py")) if path.is_dir() else [path]
