"""Comparisons with a known answer: a source that saw the very classes, the same with its weights shuffled."""

from __future__ import annotations

import os
import shutil
import textwrap
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxfer
from jaxfer import files
from jaxfer.runs.checkpoint import Checkpoints
from jaxfer.runs.finished import epath, fingerprint, open_run
from tests.sweeps.example import without_seconds

CONFIG = """
    import jaxfer.config
    from jaxfer.sweeps import Cell

    def get_config(arg=""):
        config = jaxfer.config.base()
        config.model = dict(name="resnet", stage_sizes=(1, 1), width=8, stem="cifar", image=(8, 8, 1))
        config.data = dict(source="digits", classes=("5", "6", "7", "8", "9"), val_per_class=20)
        config.parallel.devices = 1
        config.update(batch_size=25, steps=80, save_every=0, head="reset", init="sibling:source")
        config.compare.update(methods=("probe",), seeds=4, trials=1)
        config.compare.stage.scratch = dict(lr=3e-3)
        if arg == "source":
            config.data.labels_per_class = 80
            config.update(batch_size=50, steps=150, lr=3e-3, init="scratch")
        else:
            config.data.labels_per_class = 3
        return config

    def sweep():
        yield Cell(name="source", arg="source")
"""


def write(folder: Path, extra: str = "") -> str:
    """The path of the config, written into `folder`; `extra` comes after it."""
    folder.mkdir(exist_ok=True)
    path = folder / "mine.py"
    path.write_text(textwrap.dedent(CONFIG) + textwrap.dedent(extra))
    return os.fspath(path)


def check_same_on(executor: Any, folder: Path) -> None:
    """A comparison of six steps has the table and the selection of one in this process."""
    spec = write(folder / "config")
    few = {"steps": 6, "warmup": 0, "compare.seeds": 2, "compare.stage.scratch.lr": 1e-3}
    jaxfer.compare(spec, folder / "here", overrides=few, quiet=True)
    jaxfer.compare(spec, folder / "there", overrides=few, executor=executor, quiet=True)
    here, there = ((folder / at / "table.csv").read_text() for at in ("here", "there"))
    assert without_seconds(here) == without_seconds(there)
    assert (folder / "here/selection.json").read_text() == (folder / "there/selection.json").read_text()


def source(folder: Path) -> Path:
    """A trained source, as `init=run:` takes it."""
    jaxfer.run(jaxfer.load(write(folder) + ":source"), folder / "source", quiet=True)
    return folder / "source"


def shuffled(run: Path, folder: Path) -> Path:
    """The same run with every leaf's values permuted: their distribution stays, what was learnt goes."""
    shutil.copytree(run, folder)
    shutil.rmtree(folder / "checkpoints")
    rng, finished = np.random.default_rng(0), open_run(run)

    def permuted(leaf):
        return jax.numpy.asarray(rng.permutation(np.asarray(leaf).ravel()).reshape(leaf.shape))

    state = finished.state
    state = state.replace(
        params=jax.tree.map(permuted, state.params), model_state=jax.tree.map(permuted, state.model_state)
    )
    checkpoints, result = Checkpoints(epath.Path(folder / "checkpoints")), finished.result
    checkpoints.save(result["checkpoint_step"], state, {"stage": 0}, ())
    checkpoints.close()
    result["lineage"]["sha256"] = fingerprint(*finished.stage.leave(state))
    files.write_json(epath.Path(folder / "result.json"), result)
    return folder
