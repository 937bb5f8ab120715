"""How units are computed: which products run in which type, what is computed again, what stays float32."""

from __future__ import annotations

import collections
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from jaxfer.config.experiment import ParallelConfig
from jaxfer.conformance import KINDS, families
from jaxfer.models.execution import Execution
from jaxfer.parallel.placement import placement
from jaxfer.stages import example_batch
from jaxfer.step import make_eval_step, make_train_step
from jaxfer.training.programs import forward_flops, lowered_flops, step_flops
from tests.experiments import tiny_config, tiny_stage

from .tiny import TINY, batch, draw, make

PRODUCTS = ("dot_general", "conv_general_dilated")


def equations(jaxpr: Any) -> Iterator[Any]:
    """Of a jaxpr and of all that it calls, as a CPU runs it."""
    for equation in jaxpr.eqns:
        yield equation
        parameters = equation.params
        if platforms := parameters.get("branches_platforms"):  # a form for each kind of device
            (form,) = (i for i, names in enumerate(platforms) if names and "cpu" in names)
            parameters = {"branches": parameters["branches"][form : form + 1]}
        for value in parameters.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


@functools.cache
def found(case: str, *, training: bool = True, **fields: Any) -> collections.Counter:
    """{(primitive, types of its operands): how often} in a training step, or in an evaluation pass."""
    stage = tiny_stage(case, **fields)
    state, batch = stage.blank(0), example_batch(stage.spec.port, stage.spec.task, stage.config.batch_size)
    if training:
        traced = jax.make_jaxpr(make_train_step(stage.spec))(state, batch)
    else:
        traced = jax.make_jaxpr(make_eval_step(stage.spec))(state.params, state.model_state, state.extra, batch)
    return collections.Counter(
        (equation.primitive.name, tuple(str(operand.aval.dtype) for operand in equation.invars))
        for equation in equations(traced.jaxpr)
    )


def products(case: str, **fields: Any) -> tuple[int, int]:
    """How many of a training step's products have an operand in bfloat16, and how many have none."""
    counts = {True: 0, False: 0}
    for (name, types), count in found(case, **fields).items():
        counts["bfloat16" in types] += count if name in PRODUCTS else 0
    return counts[True], counts[False]


# LoRA's products are of one kind of layer or two, whatever the model: `.ci/run` takes the kinds.
REST = [case for case in sorted(TINY) if case not in KINDS]
FIRST = families()


@pytest.mark.parametrize(
    "method,case",
    [pytest.param("full", case, marks=() if case in FIRST else pytest.mark.rest) for case in sorted(TINY)]
    + [("lora", case) for case in KINDS]
    + [pytest.param("lora", case, marks=pytest.mark.rest) for case in REST],
)
def test_every_product_is_low_but_the_output_layers(method, case):
    """Forward and backward; the output layer's own products stay float32, as norms and softmax do."""
    low, high = products(case, method=method, compute_dtype="bfloat16")
    plain, every = products(case, method=method)
    assert plain == 0 and low + high == every and 2 <= high <= 3
    forward = found(case, training=False, method=method, compute_dtype="bfloat16")
    islands = {types for name, types in forward if name in ("exp", "rsqrt", "log")}  # softmax, norms, the loss
    assert islands == {("float32",)}
    assert not [types for name, types in forward if name in PRODUCTS and len(set(types)) > 1]


def test_types_by_rule():
    """One block alone: four projections, two products of the MLP, two of attention; twice as many backward."""
    low, high = products("bert_mean", dtype_rules=(("block_1", "bfloat16"),))
    both, _ = products("bert_mean", dtype_rules=(("block_.", "bfloat16"),))
    assert low == 3 * (4 + 2 + 2) and both == 2 * low
    assert products("bert_mean", compute_dtype="bfloat16", dtype_rules=((".*", "float32"),)) == (0, low + high)


@pytest.mark.parametrize("case", ["resnet_bottleneck", "vit_cls", "bert_mean", "mobilenet_v1"])
def test_in_bfloat16_the_outputs_are_those_of_float32_to_its_precision(case):
    port, inputs = make(case), batch(make(case))
    params, model_state = draw(port)
    low = port.computed(Execution(dtypes=tuple((unit, "bfloat16") for unit in port.units)))

    @jax.jit
    def both(params, model_state):
        return port.apply(params, model_state, inputs)[0], low.apply(params, model_state, inputs)[0]

    plain, rounded = both(params, model_state)
    assert rounded.dtype == plain.dtype == np.float32
    error = float(np.abs(plain - rounded).max() / np.abs(plain).max())
    assert 1e-5 < error < 3e-2


def test_what_is_computed_again():
    """Each recomputed unit adds its forward pass to the step, and a unit that is never differentiated adds nothing."""
    where = placement(ParallelConfig(devices=1))

    def flops(**fields):
        stage = tiny_stage("vit_cls", **fields)
        shapes = stage.blank(0), example_batch(stage.spec.port, stage.spec.task, 8)
        return step_flops(stage.spec, *shapes, where), forward_flops(stage.spec, *shapes)

    plain, forward = flops()
    again = [flops(remat=units)[0] - plain for units in (("block_0",), ("block_1",), ("block_.",))]
    block = flops(model={**tiny_config("vit_cls").model.to_dict(), "layers": 3})[1] - forward
    # 8 images of 7 tokens; no gradient reads the block's own output: the last product (20 -> 12), its bias, the sum.
    unread = 8 * 7 * (2 * 20 * 12 + 12 + 12)
    assert again[0] == again[1] == block - unread and again[2] == 2 * again[0]
    assert flops(method="probe", remat=(".*",))[0] < 1.02 * flops(method="probe")[0]
    assert flops(freeze_units=2, remat=("block_0",))[0] == pytest.approx(flops(freeze_units=2)[0], rel=1e-3)
    lora, pass_ = flops(method="lora")
    assert flops(method="lora", remat=("block_.",))[0] <= lora + 1.1 * pass_


@pytest.mark.parametrize("method", ["probe", "lora"])
def test_in_low_precision_recomputed_and_in_slices_the_frozen_backward_is_not_computed(method):
    """ViT-B/16, everything on: a probe costs a forward pass, LoRA two and what is computed again."""
    model = dict(name="vit", image=(224, 224, 3))
    fields = dict(compute_dtype="bfloat16", remat=("block_.*",), accumulate=2, momentum_dtype="bfloat16", clip=1.0)
    stage = tiny_stage("vit_cls", model=model, method=method, **fields)
    state, shapes = stage.blank(0), example_batch(stage.spec.port, stage.spec.task, 8)
    half = example_batch(stage.spec.port, stage.spec.task, 4)  # a loop's body is counted once
    forward = lowered_flops(make_eval_step(stage.spec), state.params, state.model_state, state.extra, half)
    step = lowered_flops(make_train_step(stage.spec), state, shapes)
    assert step < {"probe": 1.1, "lora": 3.2}[method] * forward


def test_remat_and_types_leave_the_parameters_where_they_are():
    port, inputs = make("resnet_basic"), batch(make("resnet_basic"))
    changed = port.computed(Execution(dtypes=(("stem", "bfloat16"),), remat=frozenset(port.units)))
    plain, other = (jax.eval_shape(p.init, jax.random.key(0), inputs) for p in (port, changed))
    assert plain == other
