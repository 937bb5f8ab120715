"""What every model must keep: a model joins this suite by existing."""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import rules
from jaxfer.data.encodings.image import INTERPOLATIONS
from jaxfer.data.encodings.spec import Preprocessing
from jaxfer.errors import InputError
from jaxfer.models import chain
from jaxfer.models.chain import Chain, image_preprocessing
from jaxfer.models.layers import Dense
from jaxfer.models.port import Port, Training
from jaxfer.registry import MODELS

from .tiny import TINY, batch, draw

CASES = sorted(TINY)


def make(case: str, **changes) -> Port:
    name, options = TINY[case]
    return MODELS.make(name, **{**options, **changes})


def stochastic(case: str) -> Port:
    """The case with every rate that its model has turned up."""
    schema = MODELS.schema(TINY[case][0])
    return make(case, **{rate: 0.5 for rate in ("dropout", "stochastic_depth") if rate in schema})


@functools.cache
def variables(case: str):
    """(params, model_state) of a case; its rates don't change them."""
    return draw(make(case))


def training(port: Port, *, live=(), eval_norms=()) -> Training:
    return Training(key=jax.random.key(7), live=frozenset(live), eval_norms=frozenset(eval_norms))


def of_units(tree, units):
    """The subtree of some units."""
    return {name: value for name, value in tree.items() if name in units}


def assert_same(left, right):
    assert jax.tree.structure(left) == jax.tree.structure(right)
    jax.tree.map(np.testing.assert_array_equal, left, right)


def test_every_model_of_the_room_has_a_tiny_case():
    assert {name for name, _ in TINY.values()} == set(MODELS.names())


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_lies_in_a_unit(case):
    port, (params, model_state) = make(case), variables(case)
    assert set(params) == set(port.units)
    assert len(set(port.units)) == len(port.units)
    for collection in model_state.values():
        assert set(collection) <= set(port.units)


@pytest.mark.parametrize("case", CASES)
def test_depth_counts_units_to_the_head(case):
    port, (params, _) = make(case), variables(case)
    assert [port.depth(unit) for unit in port.units] == list(range(len(port.units)))[::-1]
    for path in rules.flatten(params):
        assert port.units[len(port.units) - 1 - port.depth(path)] == path.split("/")[0]
    assert port.depth("added/scale") == 0


@pytest.mark.parametrize("case", CASES)
def test_the_head_is_the_last_units_and_has_the_outputs(case):
    port, (params, _) = make(case), variables(case)
    leaves = rules.flatten(params)
    assert port.head.split("/")[0] == port.units[-1]
    assert leaves[f"{port.head}/kernel"].shape[-1] == TINY[case][1]["outputs"]
    bigger = make(case, outputs=TINY[case][1]["outputs"] + 2)
    other = rules.flatten(jax.eval_shape(bigger.init, jax.random.key(0), batch(port))[0])
    changed = {path for path in leaves if leaves[path].shape != other[path].shape}
    assert changed and all(path.startswith(port.head + "/") for path in changed)


@pytest.mark.parametrize("case", CASES)
def test_input_axes_claim_every_kernel(case):
    port, (params, _) = make(case), variables(case)
    kernels = {path: leaf for path, leaf in rules.flatten(params).items() if path.endswith("/kernel")}
    axes = rules.resolve(port.input_axes, kernels, what="input_axes rule")
    assert all(1 <= axes[path] < leaf.ndim for path, leaf in kernels.items())
    for path, leaf in kernels.items():  # what is left after the summed axes is the shape of the bias
        bias = rules.flatten(params).get(path.removesuffix("kernel") + "bias")
        assert bias is None or leaf.shape[axes[path] :] == bias.shape


@pytest.mark.parametrize("case", CASES)
def test_no_decay_spares_biases_and_norms(case):
    port, (params, _) = make(case), variables(case)
    for path, decay in rules.resolve((), rules.flatten(params), defaults=port.no_decay).items():
        assert decay == (0.0 if path.rsplit("/", 1)[1] in ("bias", "scale", "cls", "dist", "pos") else 1.0)


@pytest.mark.parametrize("case", CASES)
def test_a_cut_at_any_unit_is_bitwise_the_full_pass_and_needs_its_own_units_only(case):
    port, (params, model_state), inputs = make(case), variables(case), batch(make(case))
    full, _ = port.apply(params, model_state, inputs)
    assert full.shape[0] == 4 and full.shape[-1] == TINY[case][1]["outputs"]
    for i in range(1, len(port.units)):
        x = inputs
        for units in (port.units[:i], port.units[i:]):
            state = {collection: of_units(tree, units) for collection, tree in model_state.items()}
            hidden, _ = port.apply(of_units(params, units), state, x, begin=units[0], end=units[-1])
            x = {**inputs, port.inputs[0]: hidden}
        np.testing.assert_array_equal(hidden, full)


@pytest.mark.parametrize("case", CASES)
def test_unknown_or_reversed_cuts_are_refused(case):
    port, (params, model_state), inputs = make(case), variables(case), batch(make(case))
    with pytest.raises(InputError, match="begin='blok_0' is no unit.*'block_0'"):
        port.apply(params, model_state, inputs, begin="blok_0")
    with pytest.raises(InputError, match="end='neck' is no unit"):
        port.apply(params, model_state, inputs, end="neck")
    with pytest.raises(InputError, match="comes after"):
        port.apply(params, model_state, inputs, begin=port.units[-1], end=port.units[0])


@pytest.mark.parametrize("case", CASES)
def test_trap_a_frozen_backbone_is_frozen_in_training_too(case):
    port, (params, model_state) = stochastic(case), variables(case)
    inputs = batch(port)
    evaluated, _ = port.apply(params, model_state, inputs)
    frozen = training(port, eval_norms=port.norms(model_state))
    trained, state = port.apply(params, model_state, inputs, training=frozen)
    np.testing.assert_array_equal(trained, evaluated)
    assert_same(state, model_state)


@pytest.mark.parametrize("case", CASES)
def test_live_units_draw_and_live_norms_move(case):
    port, (params, model_state) = stochastic(case), variables(case)
    inputs, norms = batch(port), port.norms(model_state)
    evaluated, _ = port.apply(params, model_state, inputs)
    # Dropout acts in the live units and nowhere before them.
    live = training(port, live=port.units[-2:], eval_norms=norms)
    before, _ = port.apply(params, model_state, inputs, end=port.units[-3])
    frozen, _ = port.apply(params, model_state, inputs, training=live, end=port.units[-3])
    np.testing.assert_array_equal(frozen, before)
    dropped, state = port.apply(params, model_state, inputs, training=live)
    assert bool((dropped != evaluated).any())
    assert_same(state, model_state)
    # Every norm but one runs in eval mode: only that one's statistics move.
    if norms:
        moving = max(norms)
        _, state = port.apply(params, model_state, inputs, training=training(port, eval_norms=norms - {moving}))
        old, new = rules.flatten(model_state), rules.flatten(state)
        moved = {path for path in old if bool((old[path] != new[path]).any())}
        assert moved == {f"batch_stats/{moving}/mean", f"batch_stats/{moving}/var"}


@pytest.mark.parametrize("case", CASES)
def test_norms_are_the_modules_with_running_statistics(case):
    port, (params, model_state) = make(case), variables(case)
    leaves = rules.flatten(params)
    for norm in port.norms(model_state):
        assert {f"{norm}/scale", f"{norm}/bias"} <= set(leaves)


@pytest.mark.parametrize("case", CASES)
def test_with_axis_keeps_the_tree(case):
    port, (params, model_state) = make(case), variables(case)
    mapped = port.with_axis("device")
    fresh = jax.eval_shape(mapped.init, jax.random.key(0), batch(port))
    assert jax.tree.map(jnp.shape, fresh) == jax.tree.map(jnp.shape, (params, model_state))
    assert mapped.with_axis(None) == port and mapped != port


@pytest.mark.parametrize("case", CASES)
def test_a_port_is_hashable_and_made_once(case):
    port = make(case)
    assert make(case) is port
    again = MODELS.get(TINY[case][0])(**TINY[case][1])
    assert again == port and hash(again) == hash(port)


@pytest.mark.parametrize("name", sorted({name for name, _ in TINY.values()}))
def test_the_schema_is_hashable_and_outputs_has_no_default(name):
    schema = MODELS.schema(name)
    assert "outputs" not in schema
    for _, default in schema.values():
        hash(default)
    with pytest.raises(InputError, match="outputs must be a positive integer, found 0"):
        MODELS.get(name)(outputs=0)


@pytest.mark.parametrize("case", CASES)
def test_gradients_reach_every_leaf(case):
    port, (params, model_state) = make(case), variables(case)
    inputs = batch(port)
    everything = training(port, live=port.units)
    target = jnp.asarray(np.random.default_rng(1).normal(size=4), jnp.float32)[:, None]

    @jax.jit
    @jax.grad
    def gradient(params):
        outputs, _ = port.apply(params, model_state, inputs, training=everything)
        return jnp.mean((jax.nn.log_softmax(outputs) - target) ** 2)

    for path, leaf in rules.flatten(gradient(params)).items():
        assert bool(jnp.isfinite(leaf).all()), path
        # A key's bias shifts all scores of a query alike, which the softmax ignores.
        assert path.endswith("/key/bias") or float(jnp.abs(leaf).max()) > 1e-7, path


class ForeignUnit(nn.Module):
    """A product and flax's own batch normalisation, a class that the policy has never heard of."""

    @nn.compact
    def __call__(self, x, *, train):
        return nn.BatchNorm(momentum=0.75, name="norm")(Dense((2,), name="product")(x), use_running_average=not train)


class ForeignChain(Chain):
    @nn.nowrap
    def units(self):
        return {"stem": ForeignUnit, "block_0": ForeignUnit}


def test_a_norm_of_a_foreign_class_keeps_its_statistics_when_frozen():
    port = Port(
        module=ForeignChain(),
        units=("stem", "block_0"),
        head="block_0/product",
        input_axes=((".*/kernel", 1),),
        preprocessing=Preprocessing(size=(1, 1, 3)),
    )
    inputs = {"image": jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)}
    params, model_state = port.init(jax.random.key(0), inputs)
    norms = port.norms(model_state)
    assert norms == {"stem/norm", "block_0/norm"}
    evaluated, _ = port.apply(params, model_state, inputs)
    frozen, state = port.apply(params, model_state, inputs, training=training(port, eval_norms=norms))
    np.testing.assert_array_equal(frozen, evaluated)
    assert_same(state, model_state)
    # The stem's moves alone: a quarter of the way from 0 to the batch's mean.
    _, state = port.apply(params, model_state, inputs, training=training(port, eval_norms={"block_0/norm"}))
    assert_same(state["batch_stats"]["block_0"], model_state["batch_stats"]["block_0"])
    mean = np.mean(inputs["image"] @ params["stem"]["product"]["kernel"], axis=0)
    np.testing.assert_allclose(state["batch_stats"]["stem"]["norm"]["mean"], mean / 4, rtol=1e-5)


def test_a_model_takes_the_interpolations_that_images_are_resized_by(monkeypatch):
    monkeypatch.setattr(chain, "INTERPOLATIONS", {k: v for k, v in INTERPOLATIONS.items() if k != "box"})
    for name in ("nearest", "bilinear", "bicubic", "lanczos", "hamming"):
        assert image_preprocessing((2, 2, 1), (), (), name).interpolation == name
    with pytest.raises(InputError, match="must be one of 'nearest', .*, 'lanczos', 'hamming', found 'box'"):
        image_preprocessing((2, 2, 1), (), (), "box")


def test_a_resize_to_the_image_itself_cuts_nothing_out():
    assert image_preprocessing((4, 6, 1), (), (), "box", (4, 6)).resize == ()
    assert image_preprocessing((4, 4, 1), (), (), "box", (4,)).resize == (4,)
