"""What every model must keep. Each property is a function (tiny case) -> None or what is wrong."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxfer import rules
from jaxfer.conformance import tiny
from jaxfer.conformance.tiny import batch, make
from jaxfer.errors import InputError
from jaxfer.models.port import FEATURES, Port, Training
from jaxfer.registry import MODELS

# Parameters that weight decay leaves alone, by the last component of their path.
UNDECAYED = ("bias", "scale", "scale_1", "scale_2", "cls", "dist", "registers", "pos", "relative", "probe")


@functools.lru_cache(maxsize=64)
def variables(case: str) -> tuple[Any, Any]:
    """(params, model_state) of a case; its rates don't change them."""
    return tiny.draw(make(case))


def stochastic(case: str) -> Port:
    """The case with every drop rate that its model has turned up."""
    model, given = tiny.options(case)
    rates = [rate for rate in ("dropout", "stochastic_depth") if rate in MODELS.schema(model)]
    return make(case, **dict.fromkeys([*rates, *(["neck_dropout"] if "neck" in given else [])], 0.5))


def training(port: Port, *, live: Iterable[str] = (), eval_norms: Iterable[str] = ()) -> Training:
    """A training pass in which nothing is live and every norm moves, unless said otherwise."""
    return Training(key=jax.random.key(7), live=frozenset(live), eval_norms=frozenset(eval_norms))


def every_parameter_lies_in_a_unit(case: str) -> str | None:
    port, (params, model_state) = make(case), variables(case)
    if len(set(port.units)) != len(port.units):
        return f"units: a name occurs twice in {port.units}"
    if set(params) != set(port.units):
        return f"units: {port.units}; parameters begin with {sorted(params)}"
    lost = [name for tree in model_state.values() for name in tree if name not in port.units]
    return f"model_state/{lost[0]} belongs to no unit" if lost else None


def depth_counts_units_to_the_head(case: str) -> str | None:
    """Or are those of a table, where the model states one."""
    port, (params, _) = make(case), variables(case)
    table = tuple(range(len(port.units)))[::-1] if port.depths is None else port.depths
    if len(table) != len(port.units):
        return f"depths: {len(table)} of them for the units {port.units}"
    if table[-1] != 0 or min(table) < 0:
        return f"depths: {table}; expected 0 for {port.units[-1]!r} and none below"
    if table != tuple(port.depth(unit) for unit in port.units):
        return f"depths {table} of units {port.units}"
    for path in rules.flatten(params):
        if port.depth(path) != table[port.units.index(path.split("/")[0])]:
            return f"{path}: depth {port.depth(path)} is another unit's"
    return None if port.depth("added/scale") == 0 else "an added leaf of no unit is not at the head's depth"


def the_head_is_the_last_units_and_has_the_outputs(case: str) -> str | None:
    port, (params, _) = make(case), variables(case)
    leaves, outputs = rules.flatten(params), tiny.options(case)[1]["outputs"]
    if port.head.split("/")[0] != port.units[-1]:
        return f"head {port.head!r} is outside the last unit, {port.units[-1]!r}"
    if f"{port.head}/kernel" not in leaves or leaves[f"{port.head}/kernel"].shape[-1] != outputs:
        return f"{port.head}/kernel does not end in outputs={outputs}"
    bigger = make(case, outputs=outputs + 2)
    other = rules.flatten(jax.eval_shape(bigger.init, jax.random.key(0), batch(port))[0])
    changed = {path for path in leaves if leaves[path].shape != other[path].shape}
    outside = sorted(path for path in changed if not path.startswith(port.head + "/"))
    return f"{outside[0]} depends on outputs" if outside else None if changed else "nothing depends on outputs"


def the_output_layer_reads_one_array(case: str) -> str | None:
    port, (params, model_state) = make(case), variables(case)
    taps = jax.eval_shape(lambda: port.forward(params, model_state, batch(port), taps=(FEATURES,)).taps)
    if FEATURES not in taps:
        return f"{port.head} is no module that is called"
    shapes = [leaf.shape for leaf in jax.tree.leaves(taps[FEATURES])]
    return None if len(shapes) == 1 and shapes[0][:1] == (4,) else f"{port.head} reads {shapes} for 4 examples"


def input_axes_claim_every_kernel(case: str) -> str | None:
    port, (params, _) = make(case), variables(case)
    leaves = rules.flatten(params)
    kernels = {path: leaf for path, leaf in leaves.items() if path.endswith("/kernel")}
    axes = rules.resolve(port.input_axes, kernels, what="input_axes rule")
    for path, leaf in kernels.items():
        if not 1 <= axes[path] < leaf.ndim:
            return f"{path}: {axes[path]} input axes of shape {leaf.shape}"
        # What is left after the summed axes is the shape of the bias.
        bias = leaves.get(path.removesuffix("kernel") + "bias")
        if bias is not None and leaf.shape[axes[path] :] != bias.shape:
            return f"{path}: {axes[path]} input axes of shape {leaf.shape}, but the bias is {bias.shape}"
    return None


def no_decay_spares_biases_and_norms(case: str) -> str | None:
    port, (params, _) = make(case), variables(case)
    for path, decay in rules.resolve((), rules.flatten(params), defaults=port.no_decay).items():
        wanted = 0.0 if path.rsplit("/", 1)[1] in UNDECAYED else 1.0
        if decay != wanted:
            return f"{path}: weight decay times {decay}, expected {wanted}"
    return None


def a_cut_at_any_unit_is_bitwise_the_full_pass(case: str) -> str | None:
    """Each part needs the parameters of its own units, those that they read of earlier ones, and no others."""
    port, (params, model_state) = make(case), variables(case)
    lent = {unit: {path[0] for path in of.values()} for unit, of in port.module.shared().items()}
    inputs = batch(port)
    full, _ = port.apply(params, model_state, inputs)
    if (full.shape[0], full.shape[-1]) != (4, tiny.options(case)[1]["outputs"]):
        return f"outputs of shape {full.shape} for 4 examples"
    for i in range(1, len(port.units)):
        x = inputs
        for units in (port.units[:i], port.units[i:]):
            state = {collection: _of_units(tree, units) for collection, tree in model_state.items()}
            needed = {*units, *(lender for unit in units for lender in lent.get(unit, ()))}
            hidden, _ = port.apply(_of_units(params, needed), state, x, begin=units[0], end=units[-1])
            for leaf in jax.tree.leaves(hidden):
                if leaf.shape[:1] != (4,):
                    return f"{units[-1]} gives an array of shape {leaf.shape} for 4 examples"
            x = {**inputs, port.inputs[0]: hidden}
        if not np.array_equal(hidden, full):
            return f"cut before {port.units[i]!r}: the outputs differ"
    return None


def unknown_or_reversed_cuts_are_refused(case: str) -> str | None:
    port, (params, model_state) = make(case), variables(case)
    reversed_cut = {"begin": port.units[-1], "end": port.units[0]}
    for cut, wanted in (
        ({"begin": "blok_0"}, "begin='blok_0' is not a unit.*" + ("'block_0'" if "block_0" in port.units else "")),
        ({"end": "neck"}, "end='neck' is not a unit"),
        (reversed_cut, "comes after"),
    ):
        try:
            port.apply(params, model_state, batch(port), **cut)
        except InputError as error:
            if not re.search(wanted, str(error)):
                return f"{cut} is refused with {str(error)!r}"
        else:
            return f"{cut} is not refused"
    return None


def a_frozen_backbone_is_frozen_in_training_too(case: str) -> str | None:
    port, (params, model_state) = stochastic(case), variables(case)
    inputs = batch(port)
    evaluated, _ = port.apply(params, model_state, inputs)
    frozen = training(port, eval_norms=port.norms(model_state))
    trained, state = port.apply(params, model_state, inputs, training=frozen)
    if not np.array_equal(trained, evaluated):
        return "outputs differ between training and evaluation though everything is frozen"
    return _moved(model_state, state)


def live_units_draw_and_live_norms_move(case: str) -> str | None:
    port, (params, model_state) = stochastic(case), variables(case)
    inputs, norms = batch(port), port.norms(model_state)
    evaluated, _ = port.apply(params, model_state, inputs)
    # The last two units, and those before them down to one that drops anything.
    drops = {path.split("/")[0] for path in port.dropouts}
    last = max((place for place, unit in enumerate(port.units) if unit in drops), default=len(port.units))
    first = max(0, min(len(port.units) - 2, last))
    live = training(port, live=port.units[first:], eval_norms=norms)
    if first:
        before, _ = port.apply(params, model_state, inputs, end=port.units[first - 1])
        frozen, _ = port.apply(params, model_state, inputs, training=live, end=port.units[first - 1])
        if not all(map(np.array_equal, jax.tree.leaves(frozen), jax.tree.leaves(before))):
            return "dropout acts before the live units"
    dropped, state = port.apply(params, model_state, inputs, training=live)
    if stochastic(case) != make(case) and np.array_equal(dropped, evaluated):
        return "no dropout in the live units"
    if problem := _moved(model_state, state):
        return problem
    if norms:  # every norm but one runs in eval mode: only that one's statistics move
        moving = max(norms)
        _, state = port.apply(params, model_state, inputs, training=training(port, eval_norms=norms - {moving}))
        old, new = rules.flatten(model_state), rules.flatten(state)
        moved = {path for path in old if bool((old[path] != new[path]).any())}
        if moved != {f"batch_stats/{moving}/mean", f"batch_stats/{moving}/var"}:
            return f"with only {moving} in training, these statistics changed: {sorted(moved)}"
    return None


def norms_are_the_modules_with_running_statistics(case: str) -> str | None:
    port, (params, model_state) = make(case), variables(case)
    leaves = rules.flatten(params)
    for norm in sorted(port.norms(model_state)):
        if not {f"{norm}/scale", f"{norm}/bias"} <= set(leaves):
            return f"{norm} keeps statistics but has no scale and bias"
    return None


def a_mapped_axis_keeps_the_tree(case: str) -> str | None:
    port = make(case)
    mapped = port.with_axis("device")
    fresh = jax.eval_shape(mapped.init, jax.random.key(0), batch(port))
    if jax.tree.map(jnp.shape, fresh) != jax.tree.map(jnp.shape, variables(case)):
        return "with_axis changes the parameters"
    return None if mapped.with_axis(None) == port and mapped != port else "with_axis can't be undone"


def a_port_is_hashable_and_made_once(case: str) -> str | None:
    model, options = tiny.options(case)
    port, again = make(case), MODELS.anew(model, **options)
    if make(case) is not port:
        return "the same options give two ports"
    return None if again == port and hash(again) == hash(port) else "two ports of the same options differ"


def the_schema_is_hashable_and_outputs_has_no_default(case: str) -> str | None:
    model, _ = tiny.options(case)
    schema = MODELS.schema(model)
    if "outputs" in schema:
        return "outputs has a default"
    for _, default in schema.values():
        hash(default)
    try:
        MODELS.anew(model, outputs=0)
    except InputError as error:
        wanted = "outputs must be a positive integer, found 0"
        return None if wanted in str(error) else f"outputs=0 is refused with {str(error)!r}"
    return "outputs=0 is not refused"


def gradients_reach_every_leaf(case: str) -> str | None:
    port, (params, model_state) = make(case), variables(case)
    inputs = batch(port)
    target = jnp.asarray(np.random.default_rng(1).normal(size=4), jnp.float32)

    @functools.partial(jax.jit, static_argnames="norms")
    @jax.grad
    def gradient(params, norms):
        everything = training(port, live=port.units, eval_norms=norms)
        outputs, _ = port.apply(params, model_state, inputs, training=everything)
        wanted = target.reshape(-1, *(1,) * (outputs.ndim - 1))
        return jnp.mean((jax.nn.log_softmax(outputs) - wanted) ** 2)

    # A norm takes away what is the same in all of a batch, such as the bias before it; its running statistics don't.
    ways = [rules.flatten(gradient(params, norms)) for norms in {frozenset(), port.norms(model_state)}]
    for path in ways[0]:
        if not all(bool(jnp.isfinite(way[path]).all()) for way in ways):
            return f"{path}: the gradient is not finite"
        # A key's bias shifts all scores of a query alike, which the softmax ignores.
        if not path.endswith("/key/bias") and not any(float(jnp.abs(way[path]).max()) > 1e-7 for way in ways):
            return f"{path}: no gradient"
    return None


PROPERTIES = (
    every_parameter_lies_in_a_unit,
    depth_counts_units_to_the_head,
    the_head_is_the_last_units_and_has_the_outputs,
    the_output_layer_reads_one_array,
    input_axes_claim_every_kernel,
    no_decay_spares_biases_and_norms,
    a_cut_at_any_unit_is_bitwise_the_full_pass,
    unknown_or_reversed_cuts_are_refused,
    a_frozen_backbone_is_frozen_in_training_too,
    live_units_draw_and_live_norms_move,
    norms_are_the_modules_with_running_statistics,
    a_mapped_axis_keeps_the_tree,
    a_port_is_hashable_and_made_once,
    the_schema_is_hashable_and_outputs_has_no_default,
    gradients_reach_every_leaf,
)


def _of_units(tree: Any, units: Iterable[str]) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name in units}


def _moved(before: Any, after: Any) -> str | None:
    """The first running statistic that a frozen pass changed."""
    old, new = rules.flatten(before), rules.flatten(after)
    if old.keys() != new.keys():
        return "a frozen pass adds or removes statistics"
    moved = [path for path, leaf in old.items() if not np.array_equal(leaf, new[path])]
    return f"{moved[0]} changed although frozen" if moved else None
