"""Where a run starts, and a check that a resumed folder started from the same place."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from typing import Any

from etils import epath

from jaxfer.data.split import Dataset
from jaxfer.errors import InputError
from jaxfer.optim.schedules import SCHEDULES
from jaxfer.parallel import cluster
from jaxfer.pretrained import starting
from jaxfer.runs import seal
from jaxfer.runs.finished import fingerprint
from jaxfer.runs.folder import check_owner, read_result
from jaxfer.stages import Stage
from jaxfer.training import measured, stopping, teachers
from jaxfer.training.checked import Preflight
from jaxfer.training.streams import fingerprints

PACKAGES = ("jaxfer", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def begin(ready: Preflight, folder: epath.Path) -> starting.Start:
    """Loads the weights the run starts from; `InputError` where they differ between processes."""
    start = cluster.together(lambda: starting.start(ready.experiment, ready.data, ready.stages[0], folder))
    if ready.data.streams:
        start.lineage["streams"] = dict(fingerprints(ready.data))
    if not cluster.alone():  # each process reads its own files: a host-local folder may hold other weights
        cluster.agree({"weights that config.init reads": fingerprint(start.params, start.model_state)})
    measured.check(ready.stages[0], start, ready.data)
    networks = teachers.named(ready.experiment, folder)
    if networks and not cluster.alone():
        cluster.agree({f"config.networks.{name}": network["sha256"] for name, network in networks.items()})
    return dataclasses.replace(start, lineage={**start.lineage, "networks": networks}) if networks else start


def finished(ready: Preflight, folder: epath.Path) -> dict[str, Any] | None:
    """The result of a run that has nothing left to do, else None; `InputError` where the folder is another run's."""
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
    """Raises `InputError` where the data, or what `init` or `networks` name, has changed since this run began."""
    stored = {"data": lineage["data_sha256"], "source": lineage.get("source_sha256")}
    # A source that has been deleted can't have changed.
    current = {"data": data.fingerprint, "source": starting.source_sha256(lineage["init"], folder) or stored["source"]}
    for name, stream in data.streams.items():
        stored[f"stream {name}"], current[f"stream {name}"] = lineage["streams"][name], stream.fingerprint
    for name, network in lineage.get("networks", {}).items():  # a deleted one is missed where it is loaded
        stored[part := f"network {name!r}"] = network["sha256"]
        current[part] = starting.source_sha256(network["init"], folder) or network["sha256"]
    for part, sha256 in stored.items():
        if sha256 != current[part]:
            raise InputError(
                f"{folder}: the {part} has changed since the run began (sha256 {sha256[:12]} then, "
                f"{current[part][:12]} now); restore it, or use another --workdir"
            )


def extended(record: dict[str, Any], stage: Stage, step: int) -> str:
    """Takes note of another length of the run's last stage; returns what to say of it.

    The lineage records it, since the result differs from that of a run which was as long from the start.
    """
    before, stop = record["stop"], stage.stop
    record["stop"] = stop
    if stopping.stopped(record, stage):
        return f"{stop} steps and not {before} change nothing: stage {stage.name!r} stopped early, at step {step}"
    record["lineage"].setdefault("extended", []).append({"at": step, "from": before, "to": stop})
    schedule = stage.config.schedule
    bend = "" if SCHEDULES[schedule].endless else f"; from here on it follows the {schedule} schedule of {stop} steps"
    return f"extended at step {step} from {before} to {stop} steps{bend}"


def versions() -> dict[str, str]:
    """Versions of the packages that a run's numbers may depend on."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
