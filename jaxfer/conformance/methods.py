"""What every method must do on every model. Each property is a function (method, case) -> None or what is wrong.

`SHAPES` compile nothing and are cheap enough for every method on every model. `NUMBERS` train for a few steps on one
device and share the pair's compiled programs. `LOWERED` compiles nothing either: one step as a pod would run it.
`PLACED` compares devices, which takes two or three more compiles each, and continues the step of `LOWERED`.
"""

from __future__ import annotations

import functools
import math
import tempfile
from typing import Any

import jax
import numpy as np
from etils import epath

from jaxfer.conformance import tiny
from jaxfer.conformance.training import batches, continue_training, entered, outputs, placed_as, tiny_stage, train
from jaxfer.errors import InputError
from jaxfer.method import FROZEN, Context
from jaxfer.models.port import Port
from jaxfer.ports import port_shapes
from jaxfer.registry import METHODS, MODELS
from jaxfer.rules import flatten
from jaxfer.runs.checkpoint import Checkpoints
from jaxfer.runs.finished import placed
from jaxfer.stages import Stage
from jaxfer.state import State
from jaxfer.training.programs import eval_step, lower_step, train_program, train_step

PLACEMENTS = (("jit", 1), ("jit", 4), ("fsdp", 4), ("pmap", 4))
TOLERANCE = 2e-5


def groups_hold_parameters_and_have_rates(method: str, case: str) -> str | None:
    stage = planned(method, case)
    declared = {group for _, group in stage.spec.method.rules} - {FROZEN}
    used = {leaf.group for leaf in stage.spec.trainable.values()}
    if declared != used:
        return f"groups {sorted(declared)} are declared, {sorted(used)} hold trainable parameters"
    rates = {name.removeprefix("lr/") for name in stage.hparams if name.startswith("lr/")}
    return None if rates == used else f"rates for {sorted(rates)}, parameters in {sorted(used)}"


def added_parameters_name_their_unit(method: str, case: str) -> str | None:
    stage = planned(method, case)
    backbone_paths = flatten(port_shapes(stage.spec.port)[0]).keys()
    lost = [path for path in stage.leaves().keys() - backbone_paths if stage.spec.port.unit(path) is None]
    return f"{sorted(lost)[0]} names no unit of the model ({', '.join(stage.spec.port.units)})" if lost else None


def a_training_step_maps_a_state_to_its_like(method: str, case: str) -> str | None:
    stage = planned(method, case)
    before = _blank(method, case)
    after, metrics = jax.eval_shape(train_step(stage.spec), before, _batch(stage))
    if problem := _unlike(after, before):
        return f"the State after a step: {problem}"
    for name in ("loss", "grad_norm"):
        if name not in metrics:
            return f"the step logs no {name}"
    for name, value in metrics.items():
        if value.shape != () or value.dtype != np.float32:
            return f"metric {name}: expected one float32, found {value.dtype}{list(value.shape)}"
    return None


def an_evaluation_gives_a_row_of_outputs_per_example(method: str, case: str) -> str | None:
    stage = planned(method, case)
    batch, state = _batch(stage), _blank(method, case)
    values = jax.eval_shape(eval_step(stage.spec), state.params, state.model_state, state.extra, batch)
    size = stage.config.batch_size
    port = stage.spec.port
    width = (port.outputs,) if port.outputs else port.features
    wanted = dict.fromkeys(values, (size,)) | {"collected": (size, *width)}
    for name, value in values.items():
        for leaf in jax.tree.leaves(value):
            if leaf.shape != wanted[name]:
                return f"{name}: expected {wanted[name]}, found {leaf.shape}"
    return None


def a_changed_batch_keeps_its_fields(method: str, case: str) -> str | None:
    stage = planned(method, case)
    spec = stage.spec
    if spec.method.batch is None:
        return None
    state, batch = _blank(method, case), _batch(stage)
    groups = {path: leaf.group if leaf else FROZEN for path, leaf in spec.leaves}

    def change(params: Any, extra: Any, hparams: Any, step: Any, key: Any, batch: Any) -> Any:
        return spec.method.batch(Context(None, spec.task, batch, params, extra, hparams, groups, step, key))

    read = state.params, state.extra, state.hparams, state.step, state.key
    changed, size = dict(jax.eval_shape(change, *read, batch)), stage.config.batch_size
    if problem := _unlike({name: changed[name] for name in batch if name in changed}, batch):
        return f"the batch that it changes: {problem}"
    for path, leaf in flatten({name: part for name, part in changed.items() if name not in batch}).items():
        if leaf.shape[:1] != (size,):
            return f"the batch that it changes: {path} has the shape {list(leaf.shape)} for {size} examples"
    return None


def merging_gives_the_backbone_back(method: str, case: str) -> str | None:
    stage = planned(method, case)
    if stage.spec.method.merge is None:  # there is none, and whoever asks for it is told so
        return None
    merged, _ = jax.eval_shape(stage.leave, _blank(method, case))
    return _unlike(merged, port_shapes(stage.spec.port.with_parts(()))[0])


def a_step_in_bfloat16_slices_and_shards_lowers(method: str, case: str, **fields: Any) -> str | None:
    # What compiles in float32 on one device may not trace here: a carry of another type, an axis that isn't there.
    try:
        stage = _sliced(method, case, **fields)
    except InputError as refusal:
        return f"two slices are refused: {refusal}"
    where = placed_as(stage, mode="fsdp", devices=min(PLACEMENTS[1][1], jax.device_count()))
    after, metrics = lower_step(stage, where).out_info
    if problem := _unlike(after, stage.blank(0)):
        return f"the State after a step: {problem}"
    odd = sorted(name for name, value in metrics.items() if (value.shape, value.dtype) != ((), np.float32))
    return f"metric {odd[0]}: expected one float32" if odd else None


def frozen_leaves_stay_bitwise_and_trainable_ones_move(method: str, case: str) -> str | None:
    stage = tiny_stage(case, method=method, lr=1e-2, weight_decay=0.1)
    before = flatten(entered(stage).params)
    state, _ = train(stage, 3)
    after, trainable = flatten(state.params), stage.spec.trainable
    if not after.keys() == before.keys() == dict(stage.spec.leaves).keys():
        return "a step adds or removes parameters"
    for path, leaf in after.items():
        same = np.array_equal(leaf, before[path])
        if same != (path not in trainable):
            return f"{path} {'did not change' if same else 'changed although frozen'}"
    return None


def one_compile_for_four_rates_and_decays(method: str, case: str) -> str | None:
    stage = tiny_stage(case, method=method)
    (batch,), where = batches(stage, 1), placed_as(stage)
    programs, losses = set(), set()
    for rate, decay in [(1e-3, 0.0), (1e-2, 0.01), (3e-2, 0.1), (0.1, 0.5)]:
        member = tiny_stage(case, method=method, lr=rate, weight_decay=decay)
        state = entered(member)
        program, _ = train_program(member.spec, state, batch, where)
        for _ in range(3):
            state, metrics = program.call(state, batch)
        programs.add(id(program))
        losses.add(float(metrics["loss"]))
    if len(programs) != 1:  # ahead of time: what is called can't compile again
        return f"{len(programs)} programs for 4 rates"
    return None if len(losses) == (4 if stage.spec.trainable else 1) else "the rate has no effect"


def a_restored_state_continues_bitwise(method: str, case: str) -> str | None:
    return _continues(tiny_stage(case, method=method, lr=1e-2), devices=1)


def a_state_in_bfloat16_slices_and_shards_continues_bitwise(method: str, case: str) -> str | None:
    mode, devices = PLACEMENTS[2]
    return _continues(_sliced(method, case, lr=1e-2), mode=mode, devices=devices)


def _continues(stage: Stage, **parallel: Any) -> str | None:
    where, feed = placed_as(stage, **parallel), batches(stage, 4)
    whole, losses = train(stage, 4, **parallel)
    if not np.isfinite(losses).all():
        return f"losses {losses}"
    (state, _), blank = train(stage, 2, **parallel), stage.blank(0)
    blank = placed(blank, where.shardings(stage.spec, blank.params, blank))
    with tempfile.TemporaryDirectory() as folder:
        checkpoints = Checkpoints(epath.Path(folder))
        checkpoints.save(2, state, {}, ())
        checkpoints.wait()
        restored, _ = checkpoints.restore(lambda record: blank)
        checkpoints.close()
    # A checkpoint holds what training changes; the rest follows from the config.
    state = where.place(stage.spec, restored.replace(hparams=state.hparams, key=state.key, others=state.others))
    parts, continued = continue_training(stage, state, where, feed[2:])
    if continued != losses[2:]:
        return f"losses {continued} after a restore, {losses[2:]} without"
    for name in ("step", "params", "model_state", "opt_state", "extra"):
        pairs = zip(jax.tree.leaves(getattr(whole, name)), jax.tree.leaves(getattr(parts, name)), strict=True)
        if not all(np.array_equal(a, b) for a, b in pairs):
            return f"{name} of the State differ after a restore"
    return None


def parameters_agree_on_1_and_4_devices_in_shards_and_under_pmap(method: str, case: str) -> str | None:
    stage = tiny_stage(case, method=method, optimizer="sgd", lr=1e-2)
    placements = _placements(stage)
    (one, _), *others = [train(stage, 10, mode=mode, devices=devices) for mode, devices in placements]
    for (mode, devices), (other, _) in zip(placements[1:], others, strict=True):
        for name in ("params", "model_state"):
            expected, actual = flatten(getattr(one, name)), flatten(getattr(other, name))
            for path, leaf in expected.items():
                if problem := _apart(leaf, actual[path], TOLERANCE):
                    return f"{path} under {mode} on {devices}: {problem}"
    return None


def losses_agree_on_1_and_4_devices_in_shards_and_under_pmap_with_adam(method: str, case: str) -> str | None:
    # Parameters can't be compared under Adam: it turns the rounding of a zero gradient into steps of size lr. A game of
    # two networks grows what rounding leaves where its rate is above the method's own.
    own, _ = planned(method, case).spec.method.hparams.get("lr", (math.inf, ()))
    stage = tiny_stage(case, method=method, lr=float(np.clip(own, 1e-4, 1e-3)))
    (batch,) = batches(stage, 1, seed=9)
    placements = _placements(stage)
    (one, losses), *others = [train(stage, 10, mode=mode, devices=devices) for mode, devices in placements]
    for (mode, devices), (other, others_losses) in zip(placements[1:], others, strict=True):
        if problem := _apart(losses, others_losses, TOLERANCE):
            return f"losses under {mode} on {devices}: {problem}"
        if problem := _apart(outputs(stage, one, batch), outputs(stage, other, batch), TOLERANCE):
            return f"outputs under {mode} on {devices}: {problem}"
    return None


def merged_parameters_alone_give_the_adapted_outputs(method: str, case: str) -> str | None:
    stage = tiny_stage(case, method=method, lr=0.1)
    if stage.spec.method.merge is None:
        return None
    state, _ = train(stage, 3)
    (batch,) = batches(stage, 1, seed=9)
    adapted = outputs(stage, state, batch)
    params, model_state = stage.leave(state)
    if flatten(params).keys() != flatten(port_shapes(stage.spec.port.with_parts(()))[0]).keys():
        return "merge does not give the backbone's parameters back"
    merged = _forward(stage.spec.port)(params, model_state, batch)
    return _apart(adapted, merged, 1e-5 * max(1, float(np.abs(adapted).max())))


def the_state_is_updated_in_place(method: str, case: str) -> str | None:
    stage = tiny_stage(case, method=method)
    state, _ = train(stage, 1)
    where = placed_as(stage)
    program, _ = train_program(stage.spec, state, _batch(stage), where)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((state.params, state.opt_state)))
    if program.alias_bytes < size:
        return f"{program.alias_bytes} bytes are updated in place, parameters and optimizer state take {size}"
    again, _ = continue_training(stage, state, where, batches(stage, 1))
    if not all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params)):
        return "the State was not donated"
    if any(leaf.is_deleted() for leaf in jax.tree.leaves(again.params)):
        return "the step returned a donated buffer"
    return None


SHAPES = (
    groups_hold_parameters_and_have_rates,
    added_parameters_name_their_unit,
    a_training_step_maps_a_state_to_its_like,
    an_evaluation_gives_a_row_of_outputs_per_example,
    a_changed_batch_keeps_its_fields,
    merging_gives_the_backbone_back,
)
NUMBERS = (
    frozen_leaves_stay_bitwise_and_trainable_ones_move,
    one_compile_for_four_rates_and_decays,
    a_restored_state_continues_bitwise,
    merged_parameters_alone_give_the_adapted_outputs,
    the_state_is_updated_in_place,
)
LOWERED = (a_step_in_bfloat16_slices_and_shards_lowers,)
PLACED = (
    parameters_agree_on_1_and_4_devices_in_shards_and_under_pmap,
    losses_agree_on_1_and_4_devices_in_shards_and_under_pmap_with_adam,
    a_state_in_bfloat16_slices_and_shards_continues_bitwise,
)


def planned(method: str, case: str) -> Stage:
    """The stage with the method's defaults, planned once for everything asked of a pair."""
    return _planned(*_pair(method, case))


def _blank(method: str, case: str) -> State:
    """The shapes of its State, likewise."""
    return _blank_of(*_pair(method, case))


def _pair(method: str, case: str) -> tuple[Any, ...]:
    """Both names and both factories, of which a file that is read anew has another."""
    return method, case, METHODS.get(method), MODELS.get(tiny.options(case)[0])


@functools.lru_cache(maxsize=4)
def _planned(method: str, case: str, *factories: Any) -> Stage:
    return tiny_stage(case, method=method)


@functools.lru_cache(maxsize=4)
def _blank_of(*pair: Any) -> State:
    return _planned(*pair).blank(0)


def _sliced(method: str, case: str, **fields: Any) -> Stage:
    """The stage in bfloat16 and two slices; in one where the method needs the batch as a whole."""
    fields = {"method": method, "compute_dtype": "bfloat16", **fields}
    try:
        return tiny_stage(case, accumulate=2, **fields)
    except InputError as refusal:
        if not planned(method, case).spec.method.whole_batch or "\n" in str(refusal):
            raise
        return tiny_stage(case, **fields)


def _placements(stage: Stage) -> tuple[tuple[str, int], ...]:
    """Under pmap each device sees its own examples: methods of whole batches are refused, and dropout draws others."""
    method, options = stage.spec.method, getattr(stage.spec.port.module, "options", None)
    drops = any(getattr(options, name, 0) for name in dir(options) if name.endswith(("dropout", "stochastic_depth")))
    apart = method.whole_batch or method.batch is not None or drops
    return tuple(place for place in PLACEMENTS if place[0] != "pmap" or not apart)


def _batch(stage: Stage) -> dict[str, Any]:
    return stage.example()


@functools.lru_cache(maxsize=8)
def _forward(port: Port) -> Any:
    """The plain model, compiled once for all methods."""
    return jax.jit(lambda params, model_state, batch: port.apply(params, model_state, batch)[0])


def _unlike(tree: State | Any, like: State | Any) -> str | None:
    """The first leaf that differs from its like in path, shape or type."""
    actual, expected = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in jax.tree.leaves_with_path(t)}
        for t in (tree, like)
    )
    if missing := sorted(expected.keys() ^ actual.keys()):
        return f"{missing[0]} is {'missing' if missing[0] in expected else 'new'}"
    for path, leaf in actual.items():
        if (leaf.shape, leaf.dtype) != (expected[path].shape, expected[path].dtype):
            wanted = f"{expected[path].dtype}{list(expected[path].shape)}"
            return f"{path}: expected {wanted}, found {leaf.dtype}{list(leaf.shape)}"
    return None


def _apart(expected: Any, actual: Any, tolerance: float) -> str | None:
    """The largest difference, where it is above the tolerance or not a number."""
    worst = float(np.max(np.abs(np.asarray(actual) - np.asarray(expected)), initial=0.0))
    return None if math.isfinite(worst) and worst <= tolerance else f"differ by {worst:.3g}, at most {tolerance:.3g}"
