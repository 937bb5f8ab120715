"""Schedules and updates against hand computation and against optax's own optimizers."""

from __future__ import annotations

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer.optim import Leaf, make_tx
from jaxfer.optim.optimizers import OPTIMIZERS
from jaxfer.optim.schedules import SCHEDULES, schedule

LEAVES = {"block/kernel": Leaf(group="backbone", depth=1), "head/kernel": Leaf(group="head")}


def hparams(**values: float) -> dict[str, jax.Array]:
    """Every hparam of the optimizer, neutral where it is not given; `lr` sets both groups' rates."""
    lr = values.pop("lr", 1.0)
    neutral = {"layer_decay": 1.0, "weight_decay": 0.0, "momentum": 0.9, "b2": 0.99, "clip": math.inf}
    rates = {"lr/backbone": lr, "lr/head": lr}
    named = {re.sub("^(lr|schedule)_", r"\1/", name): value for name, value in values.items()}
    return jax.tree.map(jnp.float32, {**neutral, **rates, "warmup": 0.0, "min_lr": 0.0, "total_steps": 10.0, **named})


def trees(seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.normal(size=(3, 2)), jnp.float32) for path in LEAVES}


def train(hps, steps: int, optimizer: str, leaves=LEAVES, schedule_name: str = "constant") -> dict[str, jax.Array]:
    """Parameters after so many steps on fixed random gradients."""
    params = trees(0)
    state = make_tx(leaves, hps, jnp.int32(0), optimizer=optimizer, schedule_name=schedule_name).init(params)
    for step in range(steps):
        tx = make_tx(leaves, hps, jnp.int32(step), optimizer=optimizer, schedule_name=schedule_name)
        updates, state = tx.update(trees(step + 1), state, params, value=jnp.float32(0))
        params = optax.apply_updates(params, updates)
    return params


def reference(tx: optax.GradientTransformation, steps: int) -> dict[str, jax.Array]:
    """The same with optax's own optimizer."""
    params = trees(0)
    state = tx.init(params)
    for step in range(steps):
        updates, state = tx.update(trees(step + 1), state, params)
        params = optax.apply_updates(params, updates)
    return params


def one_update(hps, grads: dict[str, float], params: dict[str, float], leaves, optimizer: str) -> dict[str, float]:
    """The update of scalars at step 0."""
    arrays = jax.tree.map(jnp.float32, (grads, params))
    tx = make_tx(leaves, hps, jnp.int32(0), optimizer=optimizer, schedule_name="constant")
    updates, _ = tx.update(arrays[0], tx.init(arrays[1]), arrays[1])
    return {path: float(update) for path, update in updates.items()}


@pytest.mark.parametrize(
    ("name", "warmup", "wanted"),
    [
        # Four steps of warm-up, the first of which moves already; then t = (step - 4) / 6, and 0 only after the last.
        ("constant", 4, {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 9: 1.0, 10: 1.0}),
        ("linear", 4, {0: 0.25, 3: 1.0, 4: 1.0, 5: 5 / 6, 7: 0.5, 9: 1 / 6, 10: 0.0, 15: 0.0}),
        ("cosine", 4, {0: 0.25, 3: 1.0, 4: 1.0, 6: 0.75, 7: 0.5, 8: 0.25, 9: 0.0669873, 10: 0.0, 15: 0.0}),
        ("constant", 0, {0: 1.0, 9: 1.0}),
        ("linear", 0, {0: 1.0, 1: 0.9, 9: 0.1, 10: 0.0}),
        ("cosine", 0, {0: 1.0, 5: 0.5, 10: 0.0}),
        ("linear", 10, {0: 0.1, 9: 1.0}),
        ("cosine", 1, {0: 1.0, 1: 1.0, 4: 0.75, 10: 0.0}),
    ],
)
def test_schedule_by_hand(name, warmup, wanted):
    found = {step: float(schedule(name, hparams(warmup=warmup), jnp.int32(step))) for step in wanted}
    assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "options", "wanted"),
    [
        ("polynomial", {"power": 2}, {0: 1.0, 4: 0.25, 6: 0.0625, 8: 0.0}),
        ("annealed", {"alpha": 10, "beta": 0.75}, {0: 1.0, 4: 6**-0.75, 8: 11**-0.75}),
        ("inverse_sqrt", {"warmup": 4}, {0: 0.25, 3: 1.0, 4: math.sqrt(4 / 5), 7: math.sqrt(1 / 2), 15: 0.5}),
        ("wsd", {"tail": 0.25}, {0: 1.0, 6: 1.0, 7: 0.5, 8: 0.0}),
        ("wsd", {"tail": 0.5, "warmup": 4}, {1: 0.5, 3: 1.0, 6: 1.0, 7: 0.5, 8: 0.0}),
        ("step", {"parts": 4, "drop": 0.1}, {0: 1.0, 1: 1.0, 2: 0.1, 4: 0.01, 5: 0.01, 6: 0.001, 7: 0.001}),
        ("step", {"parts": 3, "drop": 0.5, "total_steps": 21}, {6: 1.0, 7: 0.5, 13: 0.5, 14: 0.25}),
        ("restarts", {"cycles": 2}, {0: 1.0, 2: 0.5, 3: 0.1464466, 4: 1.0, 6: 0.5}),
        ("one_cycle", {"rise": 0.5, "start": 25, "end": 1e4}, {0: 0.04, 2: 0.52, 4: 1.0, 6: 0.500002, 8: 4e-6}),
        ("slanted_triangular", {"rise": 0.25, "ratio": 32}, {0: 1 / 32, 1: 16.5 / 32, 2: 1.0, 5: 16.5 / 32, 8: 1 / 32}),
        ("cosine", {"min_lr": 0.1, "warmup": 4}, {0: 0.25, 3: 1.0, 6: 0.55, 8: 0.1, 20: 0.1}),
    ],
)
def test_schedules_with_options_by_hand(name, options, wanted):
    """Eight steps, where it is not said."""
    hps = hparams(**{"total_steps": 8, **_named(name, options)})
    found = {step: float(schedule(name, hps, jnp.int32(step))) for step in wanted}
    assert found == pytest.approx(wanted, abs=2e-6)
    assert {option for option in options if option in SCHEDULES[name].options} == set(SCHEDULES[name].options)


def _named(name, options):
    return {f"schedule_{key}" if key in SCHEDULES[name].options else key: value for key, value in options.items()}


@pytest.mark.parametrize("name", SCHEDULES)
def test_no_schedule_leaves_its_bounds(name):
    options = {f"schedule_{key}": default for key, (default, _, _) in SCHEDULES[name].options.items()}
    found = jax.vmap(lambda step: schedule(name, hparams(total_steps=1000, **options), step))(jnp.arange(1001))
    assert float(found.min()) >= 0 and float(found.max()) <= 1 and float(found.max()) == pytest.approx(1, abs=0.02)


def test_trap_traced_peak_and_length_of_the_schedule():
    # `optax.warmup_cosine_decay_schedule` raises TracerBoolConversionError here.
    traced = jax.jit(lambda hps, step: schedule("cosine", hps, step))
    assert float(traced(hparams(warmup=4, total_steps=16), jnp.int32(10))) == pytest.approx(0.5)


def test_adamw_is_optax_adamw():
    found = train(hparams(lr=0.1, weight_decay=0.3, momentum=0.8, b2=0.95), 5, "adamw")
    wanted = reference(optax.adamw(0.1, b1=0.8, b2=0.95, weight_decay=0.3), 5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, wanted)


def test_sgd_is_optax_sgd_with_l2():
    found = train(hparams(lr=0.1, weight_decay=0.3, momentum=0.8), 5, "sgd")
    wanted = reference(optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1, momentum=0.8)), 5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, wanted)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("adam", optax.chain(optax.add_decayed_weights(0.3), optax.adam(0.1, b1=0.8, b2=0.95))),
        ("nesterov", optax.chain(optax.add_decayed_weights(0.3), optax.sgd(0.1, momentum=0.8, nesterov=True))),
        ("lion", optax.lion(0.1, b1=0.8, b2=0.95, weight_decay=0.3)),
        ("lamb", optax.lamb(0.1, b1=0.8, b2=0.95, eps=1e-8, weight_decay=0.3)),
        ("lars", optax.lars(0.1, weight_decay=0.3, momentum=0.8)),
        (
            "adafactor",  # its own decay does not follow the rate
            optax.chain(
                optax.adafactor(None, multiply_by_parameter_scale=False),
                optax.scale(-1),
                optax.add_decayed_weights(0.3),
                optax.scale(-0.1),
            ),
        ),
        (
            "rmsprop",
            optax.chain(
                optax.add_decayed_weights(0.3), optax.rmsprop(0.1, decay=0.95, eps_in_sqrt=False, momentum=0.8)
            ),
        ),
    ],
)
def test_the_others_are_optax_own(name, wanted):
    found, wanted = train(hparams(lr=0.1, weight_decay=0.3, momentum=0.8, b2=0.95), 5, name), reference(wanted, 5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted)


def test_rmsprop_by_hand():
    # v = 0.01 * 2**2, u = 2 / 0.2 = 10; then v = 0.99 * 0.04 + 0.04, u = 2 / sqrt(0.0796) and half of the 10 before.
    hps, leaves, grads = hparams(lr=0.1, momentum=0.5), {"w": Leaf(group="head")}, {"w": jnp.float32(2.0)}
    params = {"w": jnp.float32(0.0)}
    tx = make_tx(leaves, hps, jnp.int32(0), optimizer="rmsprop", schedule_name="constant")
    state, found = tx.init(params), []
    for _ in range(2):
        updates, state = tx.update(grads, state, params)
        found.append(float(updates["w"]))
    assert found == pytest.approx([-1.0, -0.1 * (2 / math.sqrt(0.0796) + 5)], rel=1e-5)


def test_large_matrices_have_a_row_and_a_column_under_adafactor():
    params = {"block/kernel": jnp.zeros((200, 300)), "head/kernel": jnp.zeros((200, 3))}
    state = make_tx(LEAVES, hparams(), jnp.int32(0), optimizer="adafactor", schedule_name="constant").init(params)
    assert max(leaf.size for leaf in jax.tree.leaves(state)) == 600, "of the matrix of the head, which is too narrow"
    assert {200, 300} <= {leaf.size for leaf in jax.tree.leaves(state)}


def test_scheduled_adamw_is_optax_adamw_with_that_schedule():
    found = train(hparams(lr=0.1, warmup=2), 6, "adamw", schedule_name="linear")
    factors = jnp.asarray([0.5, 1.0, 1.0, 7 / 8, 6 / 8, 5 / 8]) * 0.1
    b1, b2 = float(np.float32(0.9)), float(np.float32(0.99))  # as traced hparams hold them: 1 - b2 is 5e-6 off else
    wanted = reference(optax.adamw(lambda count: factors[count], b1=b1, b2=b2, weight_decay=0.0), 6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7), found, wanted)


def test_one_step_by_hand():
    grads, params = {"block/kernel": 0.5, "head/kernel": -4.0}, {"block/kernel": 2.0, "head/kernel": 10.0}
    # Adam's first step is the gradient's sign; the decoupled decay adds 0.1 p.
    found = one_update(hparams(lr=0.01, weight_decay=0.1), grads, params, LEAVES, "adamw")
    assert found == pytest.approx({"block/kernel": -0.01 * (1 + 0.2), "head/kernel": -0.01 * (-1 + 1.0)}, abs=1e-8)
    # SGD: the L2 penalty's gradient joins the loss's.
    found = one_update(hparams(lr=0.01, weight_decay=0.1), grads, params, LEAVES, "sgd")
    assert found == pytest.approx({"block/kernel": -0.01 * (0.5 + 0.2), "head/kernel": -0.01 * (-4 + 1.0)}, abs=1e-8)


def test_sgd_momentum_by_hand():
    # Trace: 1, then 0.5 * 1 + 1 = 1.5, then 0.5 * 1.5 + 1 = 1.75; the sum of the three times the rate is the way.
    hps, leaves = hparams(lr=0.1, momentum=0.5), {"w": Leaf(group="head")}
    params, grads = {"w": jnp.float32(1.0)}, {"w": jnp.float32(1.0)}
    tx = make_tx(leaves, hps, jnp.int32(0), optimizer="sgd", schedule_name="constant")
    state = tx.init(params)
    for _ in range(3):
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    assert float(params["w"]) == pytest.approx(1 - 0.1 * (1 + 1.5 + 1.75))


def test_clip_is_global_over_the_groups():
    grads, params = {"block/kernel": 3.0, "head/kernel": 4.0}, {"block/kernel": 0.0, "head/kernel": 0.0}
    # Norm 5 scaled to 1; a clip within each group would give 1 and 1.
    found = one_update(hparams(clip=1.0, momentum=0.0), grads, params, LEAVES, "sgd")
    assert found == pytest.approx({"block/kernel": -0.6, "head/kernel": -0.8})
    found = one_update(hparams(clip=5.5, momentum=0.0), grads, params, LEAVES, "sgd")
    assert found == pytest.approx({"block/kernel": -3.0, "head/kernel": -4.0})
    found = one_update(hparams(momentum=0.0), grads, params, LEAVES, "sgd")  # no clip is an infinite one
    assert found == pytest.approx({"block/kernel": -3.0, "head/kernel": -4.0})


def test_trap_clip_counts_trainable_gradients_only():
    # The head alone is trained: its gradient of norm 4 is scaled to 1, whatever the frozen block's would be.
    head = {"head/kernel": LEAVES["head/kernel"]}
    found = one_update(hparams(clip=1.0, momentum=0.0), {"head/kernel": 4.0}, {"head/kernel": 0.0}, head, "sgd")
    assert found == pytest.approx({"head/kernel": -1.0})


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_trap_rates_act_after_adam(optimizer):
    # A multiplier before Adam has no effect at all: Adam divides it out again.
    leaves = {
        "head": Leaf(group="head"),
        "block_2": Leaf(group="backbone", depth=1),
        "block_1": Leaf(group="backbone", depth=2),
        "stem": Leaf(group="backbone", depth=3, lr_scale=0.1),
        "held": Leaf(group="backbone", depth=1, lr_scale=0.0),
    }
    ones, zeros = dict.fromkeys(leaves, 1.0), dict.fromkeys(leaves, 0.0)
    found = one_update(hparams(lr_head=1.0, lr_backbone=0.1, layer_decay=0.5), ones, zeros, leaves, optimizer)
    # A gradient of one is a first update of one, but for a look ahead, and a second moment that is not corrected.
    first = {"nesterov": 1.9, "rmsprop": 10.0, "prodigy": 1e-6}.get(optimizer, 1.0)
    wanted = {"head": -1.0, "block_2": -0.05, "block_1": -0.025, "stem": -0.00125, "held": 0.0}
    assert found == pytest.approx({path: first * value for path, value in wanted.items()}, rel=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lion", "adafactor"])  # of the others it is no plain sum
def test_decay_scale_per_leaf(optimizer):
    leaves = {
        "kernel": Leaf(group="head"),
        "bias": Leaf(group="head", decay_scale=0.0),
        "double": Leaf(group="head", decay_scale=2.0),
    }
    zeros, params = dict.fromkeys(leaves, 0.0), dict.fromkeys(leaves, 10.0)
    found = one_update(hparams(lr=0.1, weight_decay=0.01), zeros, params, leaves, optimizer)
    assert found == pytest.approx({"kernel": -0.01, "bias": 0.0, "double": -0.02}, abs=1e-9)


@pytest.mark.parametrize(("optimizer", "moments"), [("adamw", 2), ("sgd", 1)])
def test_each_leaf_has_its_moments_once(optimizer, moments):
    params = trees(0)
    state = make_tx(LEAVES, hparams(), jnp.int32(0), optimizer=optimizer, schedule_name="constant").init(params)
    sizes = [leaf.size for leaf in jax.tree.leaves(state)]
    # Adam counts its steps in each group.
    assert sorted(sizes) == [1] * (2 if optimizer == "adamw" else 0) + [6] * moments * len(params)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_one_compile_for_all_hparams(optimizer):
    @jax.jit
    def step(hps, number, state, params, grads):
        tx = make_tx(LEAVES, hps, number, optimizer=optimizer, schedule_name="cosine")
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    params = trees(0)
    state = make_tx(LEAVES, hparams(), jnp.int32(0), optimizer=optimizer, schedule_name="cosine").init(params)
    results = []
    for i in range(4):
        hps = hparams(
            lr_head=0.1 * i, lr_backbone=0.2, weight_decay=0.1 * i, layer_decay=1 - 0.1 * i, momentum=0.9 - 0.1 * i,
            b2=0.99 - 0.01 * i, clip=1.0 + i, warmup=i, total_steps=10 + i,
        )  # fmt: skip
        results.append(step(hps, jnp.int32(i), state, params, trees(1))[0]["head/kernel"])
    assert step._cache_size() == 1
    assert len({array.tobytes() for array in map(np.asarray, results)}) == 4


def test_momentum_in_bfloat16_is_used_as_computed_and_kept_rounded():
    """SGD's second step adds 0.9 of the rounded first gradient; AdamW keeps the second moment in float32."""
    first, second = 0.1234567, -0.7654321
    rounded = float(jnp.bfloat16(first))
    leaves, hps, params = {"head/kernel": LEAVES["head/kernel"]}, hparams(lr=1.0), {"head/kernel": jnp.zeros(())}

    def updates(optimizer):
        tx = make_tx(
            leaves, hps, jnp.int32(0), optimizer=optimizer, schedule_name="constant", momentum_dtype="bfloat16"
        )
        state, found = tx.init(params), []
        for gradient in (first, second):
            update, state = tx.update({"head/kernel": jnp.float32(gradient)}, state, params)
            found.append(float(update["head/kernel"]))
        return found, [leaf.dtype.name for leaf in jax.tree.leaves(state)]

    found, kinds = updates("sgd")
    assert found == pytest.approx([-first, -(second + 0.9 * rounded)], rel=1e-6) and kinds == ["bfloat16"]
    found, kinds = updates("adamw")
    mu = 0.1 * second + 0.9 * float(jnp.bfloat16(0.1 * first))
    nu = 0.01 * second**2 + 0.99 * 0.01 * first**2
    assert found[0] == pytest.approx(-1, rel=1e-4)  # the sign of the gradient
    assert found[1] == pytest.approx(-(mu / (1 - 0.9**2)) / math.sqrt(nu / (1 - 0.99**2)), rel=1e-4)
    assert sorted(kinds) == ["bfloat16", "float32", "int32"]


def test_prodigy_is_optax_own():
    """Whose estimate is of all leaves: here of one group, at rates that grow as its own schedule does."""
    leaves = {path: Leaf(group="head") for path in LEAVES}
    hps = hparams(lr=1.0, momentum=0.8, b2=0.95, weight_decay=0.3)
    rates = jnp.asarray([0.25, 0.5, 0.75, 1.0, 1.0])
    b1, b2 = float(np.float32(0.8)), float(np.float32(0.95))
    own = optax.contrib.prodigy(lambda count: rates[count], betas=(b1, b2))
    wanted = reference(optax.chain(optax.add_decayed_weights(0.3), own), 5)
    found = train({**hps, "warmup": jnp.float32(4)}, 5, "prodigy", leaves)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), found, wanted)


def test_prodigy_at_no_rate_does_not_move():
    found = train(hparams(lr_backbone=0.0), 3, "prodigy")
    np.testing.assert_array_equal(found["block/kernel"], trees(0)["block/kernel"])
    assert np.isfinite(found["head/kernel"]).all() and (found["head/kernel"] != trees(0)["head/kernel"]).any()


def test_muon_is_optax_own_in_hidden_kernels_and_adamw_elsewhere():
    leaves = {"block/kernel": Leaf(group="backbone", depth=1, inputs=1, hidden=True), "head/kernel": Leaf(group="head")}
    found = train(hparams(lr=0.1, weight_decay=0.3, momentum=0.8, b2=0.95), 5, "muon", leaves)
    own = optax.contrib.muon(0.1, beta=0.8, weight_decay=0.3, consistent_rms=0.2)
    matrix, other = reference(own, 5), reference(optax.adamw(0.1, b1=0.8, b2=0.95, weight_decay=0.3), 5)
    np.testing.assert_allclose(found["block/kernel"], matrix["block/kernel"], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["head/kernel"], other["head/kernel"], rtol=1e-5, atol=1e-6)


def test_muon_takes_the_axes_that_a_kernel_sums_over_together():
    """Attention's output kernel, [heads, width, d], has the update of the matrix [heads * width, d]."""
    rng = np.random.default_rng(0)
    param, grad = (jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32) for _ in range(2))
    hps, updates = hparams(lr=0.1), []
    for shape, inputs in (((2, 3, 4), 2), ((6, 4), 1)):
        leaves = {"out/kernel": Leaf(group="backbone", depth=1, inputs=inputs, hidden=True)}
        tx = make_tx(leaves, hps, jnp.int32(0), optimizer="muon", schedule_name="constant")
        params = {"out/kernel": param.reshape(shape)}
        update, _ = tx.update({"out/kernel": grad.reshape(shape)}, tx.init(params), params)
        updates.append(np.asarray(update["out/kernel"]).reshape(6, 4))
    np.testing.assert_allclose(updates[0], updates[1], rtol=1e-6)
    # Its singular values are about 1 times 0.2 sqrt(6) times the rate.
    assert np.linalg.svd(updates[0])[1] == pytest.approx([0.02 * math.sqrt(6)] * 4, rel=0.35)


def clipped(mode: str, most: float, grads, params, leaves):
    tx = make_tx(
        leaves, hparams(clip=most, momentum=0.0), jnp.int32(0), optimizer="sgd", schedule_name="constant", clip=mode
    )
    return {path: -np.asarray(x) for path, x in tx.update(grads, tx.init(params), params)[0].items()}


def test_clip_by_value():
    grads = {"block/kernel": jnp.asarray([3.0, -0.2]), "head/kernel": jnp.asarray([-4.0, 0.0])}
    found = clipped("value", 0.5, grads, jax.tree.map(jnp.zeros_like, grads), LEAVES)
    assert found["block/kernel"].tolist() == pytest.approx([0.5, -0.2])
    assert found["head/kernel"].tolist() == [-0.5, 0.0]


def test_adaptive_clip_by_hand():
    """Units: columns of a matrix, whole biases, what an attention output sums over; the head is left alone."""
    leaves = {
        "kernel": Leaf(group="b", depth=1, inputs=1),
        "bias": Leaf(group="b", depth=1),
        "out/kernel": Leaf(group="b", depth=1, inputs=2),
        "head/kernel": Leaf(group="b", depth=0, inputs=1),
    }
    params = {
        "kernel": jnp.asarray([[3.0, 0.0], [4.0, 0.0]]),  # columns of norms 5 and 0
        "bias": jnp.asarray([0.6, 0.8]),
        "out/kernel": jnp.full((2, 2, 1), 0.5),  # one column, of norm 1
        "head/kernel": jnp.asarray([[1.0], [0.0]]),
    }
    grads = {
        "kernel": jnp.asarray([[0.3, 3.0], [0.4, 4.0]]),  # 0.5 is at most 0.1 * 5; 5 is clipped to 0.1 * 0.001
        "bias": jnp.asarray([3.0, 4.0]),  # 5 to 0.1
        "out/kernel": jnp.full((2, 2, 1), 1.0),  # 2 to 0.1
        "head/kernel": jnp.asarray([[10.0], [0.0]]),
    }
    hps = {**hparams(clip=0.1, momentum=0.0), "lr/b": jnp.float32(1.0)}
    tx = make_tx(leaves, hps, jnp.int32(0), optimizer="sgd", schedule_name="constant", clip="agc")
    found = {path: -np.asarray(x) for path, x in tx.update(grads, tx.init(params), params)[0].items()}
    np.testing.assert_allclose(found["kernel"], [[0.3, 6e-5], [0.4, 8e-5]], rtol=1e-5)
    np.testing.assert_allclose(found["bias"], [0.06, 0.08], rtol=1e-5)
    np.testing.assert_allclose(found["out/kernel"], np.full((2, 2, 1), 0.05), rtol=1e-5)
    np.testing.assert_allclose(found["head/kernel"], grads["head/kernel"])


def test_rates_fall_on_a_plateau():
    """Windows of 2 steps, patience 2, and a loss that is lowest in the first window: a tenth after three and five."""
    hps = hparams(schedule_drop=0.1, schedule_patience=2, schedule_window=2, momentum=0.0)
    losses, rates = [1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 3.0, 3.0, 3.0, 3.0, 0.5, 0.5, 1.0], []
    params, state = {"head/kernel": jnp.zeros(())}, None
    for step, loss in enumerate(losses):
        leaves = {"head/kernel": LEAVES["head/kernel"]}
        tx = make_tx(leaves, hps, jnp.int32(step), optimizer="sgd", schedule_name="plateau")
        state = tx.init(params) if state is None else state
        grads = {"head/kernel": jnp.ones(())}
        updates, state = tx.update(grads, state, params, value=jnp.float32(loss))
        rates.append(-float(updates["head/kernel"]))
    assert rates == pytest.approx([1.0] * 6 + [0.1] * 4 + [0.01] * 3, rel=1e-5)
