"""Stages whose parameters are made at once, in place of steps, from networks of the same model."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer.config.experiment import Experiment
from jaxfer.data.loader import Feed, eval_batches
from jaxfer.data.split import Split
from jaxfer.errors import InputError, NonFiniteLoss
from jaxfer.merging import Problem
from jaxfer.method import NOTHING, Method
from jaxfer.methods._fisher import check_classes, expected_squares, squared_gradients
from jaxfer.models.layers import Dense
from jaxfer.models.port import Port
from jaxfer.network import Network
from jaxfer.parallel import cluster
from jaxfer.parallel.placement import Placement, spread
from jaxfer.rules import flatten, unflatten
from jaxfer.stages import Stage, example_batch
from jaxfer.state import State
from jaxfer.training.evaluation import evaluate_split
from jaxfer.training.measured import measured
from jaxfer.training.progress import Reporter, short

PARAMS = "params/"
FISHER = Method(rules=(), measure=lambda ctx, given: squared_gradients(ctx, flatten(ctx.params)))


@functools.lru_cache(maxsize=8)
def _expecting(classes: int) -> Method:
    return Method(rules=(), measure=lambda ctx, given: expected_squares(ctx, flatten(ctx.params), classes))


def check(experiment: Experiment, stages: Sequence[Stage]) -> None:
    """`InputError` for the first stage that merges networks and can't."""
    for stage in stages:
        if stage.spec.method.merging is None:
            continue
        of = f"config.stage.{stage.name}" if experiment.run.stages else "config"
        if stage.config.adds:
            found = ", ".join(stage.config.adds)
            raise InputError(f"{of}.adds: add-ons change steps, and a merging takes none; remove {found}")
        if stage.spec.method.merging.settings.get("expected"):
            check_classes(example_batch(stage.spec.port, stage.spec.task, 2), f"{of}.options.expected")
        shapes = {path: leaf.shape for path, leaf in _leaves(*stage.shapes[:2]).items()}
        for name, network in stage.spec.others:
            where = f"config.networks.{name}"
            if network.method is not None:
                fix = "merge runs of other methods"
                raise InputError(f"{where}: its method adds modules, so that its weights are no plain model; {fix}")
            theirs = {path: leaf.shape for path, leaf in _leaves(network.params, network.model_state).items()}
            if odd := sorted(path for path in {*shapes, *theirs} if shapes.get(path) != theirs.get(path)):
                here, there = (list(of[odd[0]]) if odd[0] in of else "absent" for of in (shapes, theirs))
                fix = "networks that are merged are of one model"
                raise InputError(f"{where}: {odd[0]} is {there}, in this run's model {here}; {fix}")


def merged(
    stage: Stage,
    state: State,
    train: Split,
    val: Split,
    *,
    experiment: Experiment,
    where: Placement,
    ledger: Mapping[str, Mapping[str, Any]],
    stop: object,
    reporter: Reporter,
) -> tuple[State, dict[str, float], dict[str, Any]]:
    """Tries the candidates of a rule and keeps the one that is best on val; of equals, the one tried last.

    Args:
      stage: its method has a `merging`.
      state: its first; its parameters are the start that the networks have in common, where the rule reads one.
      train: the training examples; Fisher information and Gram matrices are measured there.
      val: the validation split.
      experiment: of the run.
      where: the devices.
      ledger: {leaf: where the run's start has it from}: leaves that the start drew are not shared with the networks.
      stop: true once the process is asked to stop; looked at between two batches.
      reporter: tells the path in a line.

    Returns:
      (the state after the merging, the chosen candidate's metrics on train, the path for result.json).

    Raises:
      Preempted, Interrupted: the process is asked to stop; nothing of the merging is kept.
      NonFiniteLoss: no candidate's loss is finite.
    """
    merging, task, size = stage.spec.method.merging, stage.spec.task, experiment.run.eval_batch_size
    sign, path, best = 1 if task.maximize else -1, [], None

    def placed(leaves: Mapping[str, np.ndarray]) -> State:
        now = _leaves(state.params, state.model_state)
        tree = unflatten(
            {path: jax.device_put(np.asarray(x, now[path].dtype), now[path].sharding) for path, x in leaves.items()}
        )
        return state.replace(params=tree.pop("params"), model_state=tree)

    def scores(now: State, split: Split) -> Mapping[str, float]:
        found = evaluate_split(stage.spec, now, split, where, size, stop=stop)
        if found is None:
            raise stop.stopped("the merging starts again")
        return found.metrics

    candidates = merging(_problem(stage, state, train, experiment, where, ledger))
    score = None
    while True:
        try:
            candidate = next(candidates) if score is None else candidates.send(score)
        except StopIteration:
            break
        metrics = scores(placed(candidate.leaves), val)
        finite = math.isfinite(metrics["loss"]) and math.isfinite(metrics[task.monitor])
        score = sign * metrics[task.monitor] if finite else -math.inf
        names = dict.fromkeys(("loss", task.monitor))
        path.append({**candidate.tried, **{name: metrics[name] if finite else None for name in names}})
        if finite and (best is None or score >= best[1]):
            best = candidate, score
    if best is None:
        raise NonFiniteLoss(f"non-finite loss on val of all {len(path)} merged networks, stage {stage.name!r}")
    chosen = best[0]
    found = next(row for row in path if chosen.tried.items() <= row.items())
    words = ", ".join(f"{name} {value}" for name, value in chosen.tried.items())
    value = f"{task.monitor} {short(found[task.monitor])}"
    reporter.say(f"stage {stage.name!r}: {merging.told(())}, best on val of {len(path)}: {words} ({value})")
    state = placed(chosen.leaves).replace(step=state.step + 1)
    metrics = {**scores(state, train), "grad_norm": 0.0}
    return state, metrics, {"rule": merging.name, **chosen.tried, "path": path}


def _problem(
    stage: Stage,
    state: State,
    train: Split,
    experiment: Experiment,
    where: Placement,
    ledger: Mapping[str, Mapping[str, Any]],
) -> Problem:
    networks = {name: network.with_arrays(*state.others[name]) for name, network in stage.spec.others}
    base = _leaves(state.params, state.model_state)
    drawn = {leaf for leaf, entry in ledger.items() if entry["what"] in ("initialised", "re-initialised")}
    how = (stage, train, where, experiment.run.eval_batch_size)
    return Problem(
        networks={name: _host(_leaves(net.params, net.model_state)) for name, net in networks.items()},
        base=_host(base),
        fresh=frozenset(drawn if experiment.run.head != "prompts" else ()),
        statistics=frozenset(path for path in base if not path.startswith(PARAMS)),
        fisher=functools.cache(lambda name, expected: _fisher(networks[name], *how, expected)),
        grams=functools.cache(lambda name: _grams(networks[name], *how)),
        seed=experiment.run.seed,
    )


def _leaves(params: Any, model_state: Any) -> dict[str, Any]:
    return flatten({"params": params, **model_state})


def _host(leaves: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {path: np.asarray(cluster.fetched(leaf), np.float64) for path, leaf in leaves.items()}


def _fisher(
    network: Network, stage: Stage, train: Split, where: Placement, size: int, expected: bool
) -> dict[str, np.ndarray]:
    """{path: its diagonal Fisher information}, the mean over the training examples."""
    method = _expecting(stage.spec.port.outputs) if expected else FISHER
    stage = dataclasses.replace(
        stage,
        spec=dataclasses.replace(stage.spec, method=method),
        given=dataclasses.replace(NOTHING, measured=flatten(network.params)),
    )
    found = measured(stage, network.params, network.model_state, NOTHING, train, where, size)
    return _host({PARAMS + path: leaf for path, leaf in found.items()})


def _grams(network: Network, stage: Stage, train: Split, where: Placement, size: int) -> dict[str, np.ndarray]:
    """{path of a dense kernel: the mean over the training examples of x x' of its inputs}, padding left out."""
    spec, size = stage.spec, where.rounded(min(size, len(train)))
    read = spec.task.expanded(train, spec.port.encodings)
    feed, total = Feed(split=read, encodings=spec.port.encodings, targets=spec.task.targets), _gram_sums(spec.port)
    arrays = [
        spread(tree, jax.tree.map(lambda _: where.replicated, tree)) for tree in (network.params, network.model_state)
    ]
    sums: dict[str, np.ndarray] = {}
    for batch in where.feed(eval_batches(feed, batch_size=size, rows=where.rows(size)), train=False):
        for path, gram in _host(total(*arrays, batch)).items():
            sums[path] = sums.get(path, 0.0) + gram / len(read)
    return sums


@functools.lru_cache(maxsize=8)
def _gram_sums(port: Port) -> Callable[[Any, Any, Mapping[str, jax.Array]], dict[str, jax.Array]]:
    """(params, model_state, batch) -> {path of a dense kernel: the sum of x x' over what is no padding}."""

    @jax.jit
    def total(params: Any, model_state: Any, batch: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
        sums: dict[str, jax.Array] = {}
        mask, tokens = batch["mask"], batch.get("attention_mask")

        def read(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if isinstance(context.module, Dense) and context.method_name == "__call__":
                x = args[0].astype(jnp.float32)
                each = mask.reshape(-1, *[1] * (x.ndim - 1))
                if tokens is not None and x.ndim > 2 and x.shape[:2] == tokens.shape:
                    each = each * tokens.reshape(*tokens.shape, *[1] * (x.ndim - 2))
                rows = (each * x).reshape(-1, math.prod(x.shape[-context.module.inputs :]))
                path = f"{PARAMS}{'/'.join(context.module.path)}/kernel"
                sums[path] = sums.get(path, 0.0) + rows.T @ rows
            return next_fun(*args, **kwargs)

        port.apply(params, model_state, {name: batch[name] for name in port.inputs}, intercept=read)
        return sums

    return total
