"""A pretrained checkpoint or a finished run as a candidate to start from: its frozen features of a training split."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from huggingface_hub import repocard
from ml_collections import ConfigDict

from jaxfer import config as configs
from jaxfer.config.experiment import Experiment
from jaxfer.config.fields import AUTO
from jaxfer.data.loader import Feed
from jaxfer.data.prepare import build
from jaxfer.data.split import Dataset
from jaxfer.errors import InputError
from jaxfer.models.port import FEATURES, Port
from jaxfer.network import of_state
from jaxfer.parallel.placement import placement
from jaxfer.ports import make_port, port_shapes
from jaxfer.pretrained import agreement, carrying, foreign, heads, starting
from jaxfer.rules import flatten, unflatten
from jaxfer.runs.folder import read_result, stored_experiment
from jaxfer.stages import Stage, make_stages
from jaxfer.state import State
from jaxfer.stored import placed
from jaxfer.training import tapped
from jaxfer.training.cached import code_version, of_stage
from jaxfer.training.fitted import fitted
from jaxfer.training.untrained import FRESH

# Of the config, what a candidate is read with; the rest is of training.
READ = ("seed", "data", "task", "parallel", "eval_batch_size", "cache_dtype", "rooms")
MODEL = ("model", "differs", "init_options")  # of a config of its own
TASK = "classification"
MODEL_UNSTATED = "no config.json that states the model"  # how `foreign.opened` refuses bare weights under `auto`
ROWS = 4096  # of stored features, under the source's head at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """A candidate, checked; no weights are read.

    Attributes:
      init: as `config.init` names it.
      experiment: a run from it that trains a new head.
      stage: that run's.
      data: of the config, alike for all candidates.
      notes: what was assumed of it, a line each.
      place: the folder of the run it would be for: `sibling:NAME` is beside it.
    """

    init: str
    experiment: Experiment
    stage: Stage
    data: Dataset
    notes: tuple[str, ...]
    place: epath.Path


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frozen:
    """A candidate's features of the training split.

    Attributes:
      reads: `features`: what the output layer reads; or the unit whose mean over tokens or places stands for it, where
        a layer above it is to be made anew.
      x: float64 [n, width].
      chances: what the source's own head says, float64 [n, source classes]; None where it has none that tells classes.
      why: why it has none.
      units: {unit: [n, width]} of every unit below the head that gives one array, in order; {} where none were asked
        for.
      left_out: {unit: why} of the others.
      computed: examples that were not stored yet.
      sha256: of the source's weights.
    """

    reads: str
    x: np.ndarray
    chances: np.ndarray | None
    why: str
    units: Mapping[str, np.ndarray]
    left_out: Mapping[str, str]
    computed: int
    sha256: str


def planned(
    config: ConfigDict,
    init: str,
    overrides: Mapping[str, Any],
    place: epath.Path,
    candidate: str,
    own: ConfigDict | None,
) -> Plan:
    """Checks that a candidate can read the config's data.

    The model is what the candidate's files say, with the `model.*` of the overrides; where they don't say, as with bare
    weights, it is the config's, or that of a config of its own.

    Args:
      config: as `jaxfer.load` returns it.
      init: as `config.init` names one.
      overrides: {"model.x": value} for every candidate; also `differs` and `init_options.*`.
      place: a run's folder.
      candidate: what errors call it.
      own: its own config, which gives the model; None: it has none.

    Raises:
      InputError: no such checkpoint or run, one that reads other inputs, or data without one class for each example.
    """
    try:
        described = _described(config, init, overrides, own, place)
        experiment = configs.resolve(described.config)
        if experiment.task.name != TASK:
            raise InputError(
                f"config.task.name: expected {TASK}, found {experiment.task.name!r}; scores are of classes"
            )
        source = dict(experiment.source.options)
        data = build(experiment.data, source, seed=experiment.run.seed, with_test=False)
        labels = data.splits["train"].labels
        if labels is None or labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer):
            raise InputError("expected data with one class for each example, found other labels or none; choose others")
        port, _ = make_port(experiment, len(data.classes))
        Feed(split=data.splits["train"], encodings=port.encodings).check()
        _, experiment = fitted(experiment, port, data.splits["train"], place)  # what a table's columns decide
        port, task = make_port(experiment, len(data.classes))
        stage = make_stages(experiment, port, task)[0]
    except InputError as error:
        raise _named(candidate, error) from None
    return Plan(init=init, experiment=experiment, stage=stage, data=data, notes=described.notes, place=place)


def _named(candidate: str, error: InputError) -> InputError:
    """The error with the candidate's name, where it does not say it already."""
    return error if candidate in str(error) else InputError(f"{candidate}: {error}")


def _described(
    config: ConfigDict, init: str, overrides: Mapping[str, Any], own: ConfigDict | None, place: epath.Path
) -> agreement.Described:
    settings, shared = configs.base(), {name: value for name, value in overrides.items() if _of_model(name)}
    with settings.unlocked(), settings.ignore_type():
        for name in READ:
            settings[name] = config[name]
        settings.data = {**dict(config.data.items()), "augment": (), "sampling": "", "sampling_by": "", "repeats": 0}
        settings.init, settings.head = init, "reset"
        if own is not None:
            for name in MODEL:
                settings[name] = own[name]
            settings.rooms = tuple(dict.fromkeys((*config.rooms, *own.rooms)))
    if own is not None:
        return agreement.described(configs.override(settings, shared), place)
    settings.model = dict(config.model.items()) if init == "scratch" else {"name": AUTO}
    try:
        return agreement.described(configs.override(settings, shared), place)
    except InputError as error:
        if MODEL_UNSTATED not in str(error) or config.model.get("name") == AUTO:
            raise
    settings.model = dict(config.model.items())
    return agreement.described(configs.override(settings, shared), place)


def _of_model(name: str) -> bool:
    return name.startswith(("model.", "init_options.")) or name == "differs"


def frozen(plan: Plan, *, units: bool, say: Callable[[str], None]) -> Frozen:
    """Computes a candidate's features in evaluation mode, or reads them where they are stored.

    Raises:
      InputError: weights that do not fit, or an output layer that does not read one vector of an example.
    """
    experiment, stage, split = plan.experiment, plan.stage, plan.data.splits["train"]
    try:
        begun = starting.start(experiment, plan.data, stage, plan.place)
        port, where = stage.spec.port, placement(experiment.parallel)
        if where.mode == "pmap":
            raise InputError("config.parallel.mode=pmap: features are stored by one process of devices; use mode=jit")
        if port.apart or len(port.features) != 1:
            raise InputError(
                f"its output layer reads {list(port.features)}, not one vector of an example; leave it out"
            )
    except InputError as error:
        raise _named(plan.init, error) from None
    fresh = [leaf for leaf, entry in begun.ledger.items() if entry["what"] in FRESH]
    state = where.place(stage.spec, _state(begun.params, begun.model_state))
    options = {"batch_size": experiment.run.eval_batch_size, "stop": False, "say": say}
    code = code_version(experiment.model.name)
    cached = of_stage(stage, state, where, code, dtype=experiment.run.cache_dtype, **options)
    below = [leaf for leaf in fresh if not leaf.startswith(f"params/{port.head}/")]
    readings, left_out = tapped.vectors(of_state(stage, state), port.units[:-1]) if units or below else ({}, {})
    if below and port.units[-2] not in readings:
        raise InputError(f"{plan.init}: {below[0]} is not in the checkpoint, and no unit below it gives a vector")
    wanted = dict(readings) if units else {port.units[-2]: readings[port.units[-2]]} if below else {}
    vectors, computed = {}, 0
    if wanted:
        taps = tapped.Tapped.of(cached, tuple(wanted.values()))
        vectors = {u: np.asarray(v, np.float64) for u, v in taps.apart(tapped.column(taps, split, state)).items()}
        computed = taps.computed
    if below:
        reads, x = port.units[-2], vectors[port.units[-2]]
    else:
        column = tapped.column(cached, split, state).columns[FEATURES]
        reads, x, computed = FEATURES, np.asarray(column.values[split.rows], np.float64), computed + cached.computed
        vectors = {**vectors, FEATURES: x} if units else vectors
    head, why = (None, f"{below[0]} is not in the checkpoint") if below else _head(plan, begun)
    return Frozen(
        reads=reads,
        x=x,
        chances=None if head is None else _chances(port, begun, head, x),
        why=why,
        units=vectors if units else {},
        left_out=left_out if units else {},
        computed=computed,
        sha256=begun.lineage.get("source_sha256") or "",
    )


def _state(params: Any, model_state: Any) -> State:
    return State(step=np.int32(0), params=params, model_state=model_state, opt_state=(), extra={}, hparams={}, key=None)


def _head(plan: Plan, begun: starting.Start) -> tuple[dict[str, Any] | None, str]:
    """({path below the head: leaf} of the source's own output layer, or None; why)."""
    init, port = plan.init, plan.stage.spec.port
    if init == "scratch":
        return None, "it is drawn at random"
    if not foreign.is_foreign(init):
        place = starting.locate(init, plan.place)
        task = stored_experiment(place).task.name
        if task != TASK:
            return None, f"the source's task is {task!r}"
        return dict(begun.trained_heads[0].leaves), ""
    experiment = plan.experiment
    checkpoint = foreign.opened(init, experiment.model.name, dict(experiment.model.options), experiment.init_options)
    if checkpoint.other_head is not None or not checkpoint.outputs:
        return None, "the checkpoint has no head that labels whole inputs"
    if (task := heads.guessed_task(checkpoint)) != TASK:
        return None, f"its head is for {task}"
    wide = port.with_outputs(heads.head_width(checkpoint))
    params, model_state = port_shapes(wide)
    shapes = flatten({"params": params, **model_state})
    conversion = carrying.carry(checkpoint, wide, shapes, reset=[], differs=experiment.run.differs)
    below = f"{port.head}/"
    loaded = {path.removeprefix(below): x for path, x in flatten(conversion.params).items() if path.startswith(below)}
    if conversion.fresh or not loaded:
        return None, "the checkpoint has no head that labels whole inputs"
    return loaded, ""


def _chances(port: Port, begun: starting.Start, head: Mapping[str, Any], x: np.ndarray) -> np.ndarray:
    """The softmax of the source's output layer on features."""
    outputs = next(np.shape(leaf)[-1] for path, leaf in sorted(head.items()) if path.endswith(("bias", "kernel")))
    own = {f"{port.head}/{path}": leaf for path, leaf in head.items()}
    rest = {path: leaf for path, leaf in flatten(begun.params).items() if not path.startswith(f"{port.head}/")}
    params, model_state = placed((unflatten({**rest, **own}), begun.model_state))
    model = port.with_outputs(outputs).beginning(FEATURES)
    step = jax.jit(lambda params, model_state, x: model.apply(params, model_state, {FEATURES: x})[0])
    x = x.astype(np.float32)
    parts = [step(params, model_state, x[i : i + ROWS]) for i in range(0, len(x), ROWS)]
    logits = np.concatenate([np.asarray(part, np.float64) for part in parts])
    chances = np.exp(logits - logits.max(1, keepdims=True))
    return chances / chances.sum(1, keepdims=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """What is known of a candidate without reading an example.

    Attributes:
      model: its family.
      parameters: below the head.
      depth: units below the head.
      accuracy: of the source on its own data, where a file states it.
      examples: that the source was trained on, likewise.
    """

    model: str
    parameters: int
    depth: int
    accuracy: float | None
    examples: int | None


def about(plan: Plan) -> About:
    """The heuristics that a score has to beat."""
    port, accuracy, examples = plan.stage.spec.port, None, None
    own = flatten(port_shapes(port)[0])
    parameters = sum(int(np.prod(leaf.shape)) for path, leaf in own.items() if not path.startswith(f"{port.head}/"))
    if plan.init != "scratch" and not foreign.is_foreign(plan.init):
        result = read_result(starting.locate(plan.init, plan.place))
        accuracy, examples = result["metrics"].get("val", {}).get("accuracy"), result["examples"].get("train")
    elif plan.init != "scratch":
        accuracy = _stated_accuracy(plan)
    depth = len(port.units) - 1
    name = plan.experiment.model.name
    return About(model=name, parameters=parameters, depth=depth, accuracy=accuracy, examples=examples)


def _stated_accuracy(plan: Plan) -> float | None:
    """The first accuracy in the `model-index` of the README beside the weights."""
    model = plan.experiment.model
    checkpoint = foreign.opened(plan.init, model.name, dict(model.options), plan.experiment.init_options)
    readme = checkpoint.files.weights.parent / "README.md"
    try:
        index = (repocard.metadata_load(os.fspath(readme)) or {}).get("model-index") if readme.exists() else None
        results = [metric for entry in index or () for result in entry["results"] for metric in result["metrics"]]
        return next((float(metric["value"]) for metric in results if metric["type"] == "accuracy"), None)
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return None  # a README that states nothing in a form to go by
