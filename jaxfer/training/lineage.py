"""What a run begins from, and whether what its folder holds was begun from the same."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxfer.data.split import Dataset
from jaxfer.errors import InputError
from jaxfer.parallel import cluster
from jaxfer.pretrained import starting
from jaxfer.runs import seal
from jaxfer.runs.finished import fingerprint
from jaxfer.runs.folder import check_owner, read_result
from jaxfer.training.preflight import Preflight

PACKAGES = ("jaxfer", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def begin(ready: Preflight, folder: epath.Path) -> starting.Start:
    """What the run starts from, the same in every process."""
    start = cluster.together(lambda: starting.start(ready.experiment, ready.data, ready.stages[0], folder))
    if not cluster.alone():  # each reads its own files: a folder of this host alone may hold others
        cluster.agree({"weights that config.init reads": fingerprint(start.params, start.model_state)})
    return start


def finished(ready: Preflight, folder: epath.Path) -> dict[str, Any] | None:
    """The result of a run that has nothing left to do; `InputError` where the folder is another's."""
    test = ready.experiment.run.test
    if test:
        seal.check(folder)
    check_owner(folder, ready.experiment)
    if not (folder / "result.json").exists():
        return None
    result = read_result(folder)
    check(result["lineage"], ready.data, folder)
    if result["steps"] > ready.steps:
        raise InputError(f"{folder} was trained for {result['steps']} steps already, the config says {ready.steps}")
    return result if result["steps"] == ready.steps and ("test" in result["metrics"] or not test) else None


def check(lineage: Mapping[str, Any], data: Dataset, folder: epath.Path) -> None:
    """`InputError` where the data, or the run that `init` names, is not what this run began with."""
    stored = {"data": lineage["data_sha256"], "source": lineage.get("source_sha256")}
    # A source that has been cleared away can't have changed.
    current = {"data": data.fingerprint, "source": starting.source_sha256(lineage["init"], folder) or stored["source"]}
    for part, sha256 in stored.items():
        if sha256 != current[part]:
            raise InputError(
                f"{folder} was begun with another {part} (sha256 {sha256[:12]} there, {current[part][:12]} now); "
                "restore it, or use another --workdir"
            )


def versions() -> dict[str, str]:
    """{package that a run's numbers may depend on: its version}."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
