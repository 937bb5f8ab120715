"""Start from a pretrained checkpoint, with a ledger of what became of every leaf. Resuming is `checkpoint.py`'s."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
from etils import epath

from jaxfer.data.dataset import Dataset
from jaxfer.errors import InputError, nearest
from jaxfer.experiment import Experiment
from jaxfer.finished import FinishedRun, fingerprint, open_run
from jaxfer.preflight import Preflight
from jaxfer.rules import flatten, unflatten
from jaxfer.stages import compiled_port_init, example_batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run starts from.

    Attributes:
      params: nested backbone params, head included.
      model_state: running statistics.
      ledger: {path: `loaded`, `initialised` or `re-initialised: why`}.
      lineage: source, its sha256 and its own lineage, the data's sha256; the ancestry of these weights.
    """

    params: Any
    model_state: Any
    ledger: dict[str, str]
    lineage: dict[str, Any]


# Model options that only training sees: a run may set them as it likes.
TRAINING_OPTIONS = ("dropout", "stochastic_depth")


def start(plan: Preflight, folder: epath.Path) -> Start:
    """Fresh or loaded parameters, as `config.init`, `config.head` and `config.differs` say.

    Raises:
      InputError: an unknown source, an unfinished run, or a model or leaves that differ and were not announced.
    """
    experiment, data = plan.experiment, plan.data
    port, task = plan.stages[0].spec.port, plan.stages[0].spec.task
    init, lineage = experiment.run.init, {"init": experiment.run.init, "data_sha256": data.fingerprint}
    source = None if init == "scratch" else open_run(source_folder(init, folder))
    shapes = example_batch(port, task, 2)
    zeros = jax.tree.map(lambda s: jax.numpy.zeros(s.shape, s.dtype), shapes)
    params, model_state = compiled_port_init(port)(jax.random.fold_in(jax.random.key(experiment.run.seed), 0), zeros)
    if source is None:
        ledger = dict.fromkeys(_leaves(params, model_state), "initialised")
        return Start(params=params, model_state=model_state, ledger=ledger, lineage=lineage)
    _check_model(experiment, source.experiment)
    loaded = source.stage.leave(source.state)
    keep = _keeps_head(experiment.run.head, source, data)
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
        lineage={**lineage, "source_sha256": fingerprint(*loaded), "source": source.result["lineage"]},
    )


def source_folder(init: str, folder: epath.Path) -> epath.Path:
    """The run folder that `run:FOLDER` or `sibling:NAME` names; `InputError` where there is no run."""
    source = locate(init, folder)
    if not (source / "config.json").exists():
        raise InputError(f"config.init={init}: no run at {source}; train it first with `jaxfer run`")
    return source


def locate(init: str, folder: epath.Path) -> epath.Path:
    """Where that run is or would be."""
    kind, _, name = init.partition(":")
    if kind not in ("run", "sibling") or not name:
        raise InputError(f"config.init: expected scratch, run:FOLDER or sibling:NAME, found {init!r}")
    return epath.Path(name) if kind == "run" else folder.parent / name


def _check_model(ours: Experiment, theirs: Experiment) -> None:
    """Equal shapes do not make the same model: another mean, image size or stride would load and mean nothing."""
    here, there = ({"name": e.model.name, **dict(e.model.options)} for e in (ours, theirs))
    for option in ours.run.differs:
        if option not in here:
            raise InputError(
                f"config.differs: model {ours.model.name!r} has no option {option!r}{nearest(option, here)}"
            )
    differing = [
        f"{option} is {there.get(option)!r} there, {value!r} here"
        for option, value in here.items()
        if there.get(option) != value and option not in (*TRAINING_OPTIONS, *ours.run.differs)
    ]
    if differing:
        raise InputError(
            f"config.init={ours.run.init}: the source's model is another ({'; '.join(differing)}); set config.model to "
            "the source's, or announce what may differ in config.differs"
        )


def _keeps_head(head: str, source: FinishedRun, data: Dataset) -> bool:
    if head != "auto" or source.classes != data.classes:
        return head == "keep"
    if source.result["lineage"]["data_sha256"] != data.fingerprint:
        raise InputError(
            "config.head=auto: the source was trained on other data whose classes have the same names; if they mean "
            "the same set config.head=keep, else reset"
        )
    return True


def _why(head: str) -> str:
    return "config.head=reset" if head == "reset" else "other classes than the source's"


def _leaves(params: Any, model_state: Any) -> dict[str, Any]:
    return flatten({"params": params, **model_state})
