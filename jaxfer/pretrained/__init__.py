"""Start from a pretrained checkpoint, with a ledger of what became of every leaf. Resuming is `checkpoint.py`'s."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from etils import epath

from jaxfer.errors import InputError
from jaxfer.experiment import Experiment
from jaxfer.finished import fingerprint, open_run
from jaxfer.models.port import Port
from jaxfer.rules import flatten, unflatten
from jaxfer.stages import compiled_port_init, example_batch
from jaxfer.task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run starts from.

    Attributes:
      params: nested backbone params, head included.
      model_state: running statistics.
      ledger: {path: `loaded`, `initialised` or `re-initialised: why`}.
      lineage: source, its sha256 and its own lineage; the ancestry of these weights.
    """

    params: Any
    model_state: Any
    ledger: dict[str, str]
    lineage: dict[str, Any]


def start(experiment: Experiment, port: Port, task: Task, classes: tuple[str, ...], folder: epath.Path) -> Start:
    """Fresh or loaded parameters, as `config.init` and `config.head` say.

    Raises:
      InputError: an unknown source, an unfinished run, or leaves that do not fit and were not announced.
    """
    init = experiment.run.init
    source = None if init == "scratch" else open_run(source_folder(init, folder))
    shapes = example_batch(port, task, 2)
    zeros = jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), shapes)
    params, model_state = compiled_port_init(port)(jax.random.fold_in(jax.random.key(experiment.run.seed), 0), zeros)
    if source is None:
        ledger = dict.fromkeys(_leaves(params, model_state), "initialised")
        return Start(params=params, model_state=model_state, ledger=ledger, lineage={"init": "scratch"})
    loaded = source.stage.leave(source.state)
    keep = _keeps_head(experiment.run.head, source.classes, classes)
    ledger, filled = {}, {}
    theirs = _leaves(*loaded)
    for path, leaf in _leaves(params, model_state).items():
        if path.startswith(f"params/{port.head}/") and not keep:
            filled[path], ledger[path] = leaf, "re-initialised: " + _why(experiment.run.head)
        elif path not in theirs or theirs[path].shape != leaf.shape:
            found = tuple(theirs[path].shape) if path in theirs else "nothing"
            raise InputError(
                f"config.init={init}: {path} is {tuple(leaf.shape)} here, {found} there; "
                "config.model must be the source's (its config.json has it)"
            )
        else:
            filled[path], ledger[path] = theirs[path], "loaded"
    unused = sorted(set(theirs) - set(filled))
    if unused:
        raise InputError(f"config.init={init}: {len(unused)} source leaves have no place here: {', '.join(unused[:3])}")
    tree = unflatten(filled)
    return Start(
        params=tree.pop("params"),
        model_state=tree,
        ledger=ledger,
        lineage={"init": init, "source_sha256": fingerprint(*loaded), "source": source.result["lineage"]},
    )


def source_folder(init: str, folder: epath.Path) -> epath.Path:
    """The run folder that `run:FOLDER` or `sibling:NAME` names."""
    kind, _, name = init.partition(":")
    if kind not in ("run", "sibling") or not name:
        raise InputError(f"config.init: expected scratch, run:FOLDER or sibling:NAME, found {init!r}")
    source = epath.Path(name) if kind == "run" else folder.parent / name
    if not (source / "config.json").exists():
        raise InputError(f"config.init={init}: no run at {source}; train it first with `jaxfer run`")
    return source


def _keeps_head(head: str, source_classes: tuple[str, ...], classes: tuple[str, ...]) -> bool:
    return head == "keep" or (head == "auto" and source_classes == classes)


def _why(head: str) -> str:
    return "config.head=reset" if head == "reset" else "other classes than the source's"


def _leaves(params: Any, model_state: Any) -> dict[str, Any]:
    return flatten({"params": params, **model_state})
