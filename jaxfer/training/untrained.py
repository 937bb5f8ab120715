"""A checkpoint with its own head on a data set, without training: its classes are matched to the data's by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxfer import config
from jaxfer.config.experiment import Experiment
from jaxfer.config.fields import AUTO
from jaxfer.data.loader import Feed
from jaxfer.data.prepare import build
from jaxfer.data.split import Dataset
from jaxfer.errors import InputError
from jaxfer.ports import make_port
from jaxfer.pretrained import foreign, starting
from jaxfer.pretrained.agreement import completed
from jaxfer.pretrained.foreign import Checkpoint
from jaxfer.pretrained.heads import KINDS, guessed_task, head_width, loaded, whole_length
from jaxfer.runs import seal
from jaxfer.stages import Stage, make_stages
from jaxfer.state import State
from jaxfer.stored import placed

TAKEN = ("data.", "model.", "task.", "parallel.")  # sections of the config that an evaluation reads
FRESH = ("re-initialised", "missing")  # kinds of the load ledger


@dataclasses.dataclass(frozen=True, kw_only=True)
class Untrained:
    """Everything that an evaluation of a checkpoint needs, or what reads its activations.

    Attributes:
      experiment: the config that the checkpoint and the overrides make; only its model, task and data are used.
      stage: the model as one stage of plain fine-tuning, for its evaluation step.
      state: the checkpoint's parameters; no optimizer state.
      data: its splits, labelled in the order of the checkpoint's classes.
      notes: what was assumed, a line each.
      fresh: leaves that the checkpoint has not, or that are drawn anew.
      sha256: of the checkpoint's file of weights.
    """

    experiment: Experiment
    stage: Stage
    state: State
    data: Dataset
    notes: tuple[str, ...]
    fresh: tuple[str, ...] = ()
    sha256: str = ""


def opened(init: str, overrides: Mapping[str, Any], *, split: str) -> Untrained:
    """A checkpoint and the data that `overrides` name.

    The test split is opened by asking for it: no training and no selection of ours has seen any of this data. An export
    of a comparison's run is sealed as that run is.

    Args:
      init: as `config.init` names one: a folder, a file, an adapter, a name on the Hub.
      overrides: {"data.x": value}; also `model.*` for what bare weights leave open, `task.*`, `parallel.*`, `differs`
        and `eval_batch_size`.
      split: the one to be evaluated.

    Raises:
      InputError: no checkpoint, none with a head, other classes than the data's, or a sealed test split.
    """
    settings, checkpoint = _described(init, overrides, split)
    outputs, notes = head_width(checkpoint), []
    if "task.name" not in overrides:
        settings.task.name = guessed_task(checkpoint)
        if checkpoint.problem_type not in KINDS:
            notes.append(
                f"the checkpoint states no task; {outputs} outputs are read as {settings.task.name} (set by task.name)"
            )
    elif KINDS.get(checkpoint.problem_type, settings.task.name) != settings.task.name:
        mismatch = f"the checkpoint states {checkpoint.problem_type}, found {settings.task.name!r}"
        raise InputError(f"config.task.name: {mismatch}; leave it out")
    experiment = config.resolve(completed(settings))
    data, assumed = _data(experiment, checkpoint, outputs, split)
    port, task = make_port(experiment, len(data.classes))
    if port.outputs != outputs:
        raise InputError(
            f"{init} has {outputs} outputs; task {experiment.task.name!r} on this data needs {port.outputs}"
        )
    Feed(split=data.splits[split], encodings=port.encodings).check()
    stage = make_stages(experiment, port, task)[0]
    params, model_state = loaded(checkpoint, port, experiment.run.differs)
    whole = (*notes, *assumed, *data.notes)
    return Untrained(experiment=experiment, stage=stage, state=_state(params, model_state), data=data, notes=whole)


def headless(init: str, overrides: Mapping[str, Any], *, split: str) -> Untrained:
    """A checkpoint, with a head or without one, and data of any classes: its output layer is drawn anew.

    Args:
      init: as of `opened`.
      overrides: likewise.
      split: the one to be read.

    Raises:
      InputError: no checkpoint, one that does not fit the model, a split that the data lacks, or a sealed test split.
    """
    settings, checkpoint = _described(init, overrides, split)
    settings.head = "reset"
    experiment = config.resolve(completed(settings))
    source, seed = dict(experiment.source.options), experiment.run.seed
    data = build(experiment.data, source, seed=seed, with_test=split == "test")
    if split not in data.splits:
        raise InputError(f"split {split!r} is not in this data; it has {', '.join(data.splits)}")
    port, task = make_port(experiment, len(data.classes) or 1)
    stage = make_stages(experiment, port, task)[0]
    begun = starting.start(experiment, data, stage, epath.Path("."))
    return Untrained(
        experiment=experiment,
        stage=stage,
        state=_state(begun.params, begun.model_state),
        data=data,
        notes=(*checkpoint.notes, *data.notes),
        fresh=tuple(leaf for leaf, entry in begun.ledger.items() if entry["what"] in FRESH),
        sha256=begun.lineage["source_sha256"],
    )


def _described(init: str, overrides: Mapping[str, Any], split: str) -> tuple[ConfigDict, Checkpoint]:
    """(the config that a checkpoint and the overrides make, the checkpoint); the seal of the test split is checked."""
    for name in overrides:
        if not name.startswith(TAKEN) and name not in ("differs", "eval_batch_size"):
            known = ", ".join(f"{section}*" for section in TAKEN)
            raise InputError(f"config.{name}: nothing is trained here; a checkpoint takes {known}, eval_batch_size")
    settings = config.base()
    settings.model, settings.init = {"name": AUTO}, init
    settings = config.override(settings, overrides)
    options = dict(settings.model.items())
    checkpoint = foreign.opened(init, options.pop("name"), options)
    if split == "test":
        seal.check_export(epath.Path(checkpoint.files.init).expanduser(), checkpoint.files.marker.get("run"))
    if length := whole_length(checkpoint):
        options.setdefault("max_length", length)
        settings.model = {**dict(settings.model.items()), **options}
    return settings, checkpoint


def _state(params: Any, model_state: Any) -> State:
    """Weights alone."""
    fields = dict(opt_state=(), extra={}, hparams={}, key=None)
    return placed(State(step=np.int32(0), params=params, model_state=model_state, **fields))


def _data(experiment: Experiment, checkpoint: Checkpoint, outputs: int, split: str) -> tuple[Dataset, list[str]]:
    """(the data, its labels in the checkpoint's order; what was assumed)."""
    source = dict(experiment.source.options)

    def built(chosen: Sequence[str]) -> Dataset:
        settings = dataclasses.replace(experiment.data, classes=tuple(chosen))
        return build(settings, source, seed=experiment.run.seed, with_test=split == "test")

    data = built(experiment.data.classes)
    if split not in data.splits:
        raise InputError(f"split {split!r} is not in this data; it has {', '.join(data.splits)}")
    if not data.classes:
        return data, []
    order = matched(checkpoint.labels, data.classes, outputs, checkpoint.files.init)
    if order is None:
        pairs = _some([f"{name}={i}" for i, name in enumerate(data.classes)])
        return data, [f"classes are matched by position, since one side has no class names: {pairs}"]
    return (data if order == data.classes else built(order)), []


def matched(labels: Sequence[str], classes: Sequence[str], outputs: int, init: str) -> tuple[str, ...] | None:
    """The data's classes in the order of the checkpoint's outputs; None: by position, where one side has no names.

    Classes that are the numbers 0 to k-1 count as unnamed, unless the checkpoint calls them so too.

    Raises:
      InputError: other names, or another number of them.
    """
    if labels and set(labels) == set(classes) and len(labels) == outputs:
        return tuple(labels)
    numbered = tuple(classes) == tuple(str(i) for i in range(len(classes)))
    if labels and not numbered:
        raise InputError(
            f"{init}: the checkpoint's classes are {_some(labels)}; this data's are {_some(classes)}; choose them with "
            "--config.data.classes, rename the data's, or number them from 0 in the checkpoint's order"
        )
    if len(classes) != outputs:
        raise InputError(
            f"{init}: the checkpoint has {outputs} classes ({_some(labels) or 'without names'}), this data has "
            f"{len(classes)} ({_some(classes)}); choose the data's with --config.data.classes"
        )
    return None


def _some(names: Sequence[str], limit: int = 8) -> str:
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
