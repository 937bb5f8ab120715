"""Several tasks weighed against each other: the rules by hand, and a step of each method of gradients taken apart."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxfer.config import resolve
from jaxfer.errors import InputError
from jaxfer.methods import gradnorm, pcgrad
from jaxfer.models.port import FEATURES
from jaxfer.ports import make_port
from jaxfer.rules import flatten
from jaxfer.stages import make_stages
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_config, tiny_stage

RATE = 0.5
FIELDS = dict(optimizer="sgd", lr=RATE, momentum=0.0, weight_decay=0.0)


def test_surgery_by_hand():
    """Algorithm 1 in NumPy for every order of each task; the sum is that of one combination of orders."""
    rng = np.random.default_rng(0)
    gradients = rng.normal(size=(3, 5))
    gradients[1] = -gradients[0] + 0.3 * rng.normal(size=5)

    def projected(own, order):
        g = gradients[own].copy()
        for other in order:
            if other != own and g @ gradients[other] < 0:
                g -= g @ gradients[other] / (gradients[other] @ gradients[other]) * gradients[other]
        return g

    ways = [[projected(own, order) for order in itertools.permutations(range(3))] for own in range(3)]
    sums = np.array([sum(way) for way in itertools.product(*ways)])
    drawn = []
    for seed in range(8):
        factors = np.asarray(pcgrad.surgery(jnp.asarray(gradients @ gradients.T, jnp.float32), jax.random.key(seed)))
        near = np.abs(sums - factors @ gradients).max(1)
        assert near.min() < 1e-5
        drawn.append(int(near.argmin()))
    assert len(set(drawn)) > 1  # orders differ between keys, and so do their sums
    same = jnp.asarray([[4.0, 1.0], [1.0, 9.0]])
    np.testing.assert_array_equal(pcgrad.surgery(same, jax.random.key(0)), [1, 1])
    still = jnp.asarray([[4.0, 0.0], [0.0, 0.0]])  # a task without a gradient
    np.testing.assert_array_equal(pcgrad.surgery(still, jax.random.key(0)), [1, 1])


def test_weights_move_by_the_gradient_of_eq_2():
    rng = np.random.default_rng(1)
    weights, norms, ratios = (jnp.asarray(rng.uniform(0.5, 1.5, 3), jnp.float32) for _ in range(3))
    alpha, rate = 1.5, 0.05

    def unlike(w, constant):
        return jnp.abs(w * norms - constant).sum()

    constant = (weights * norms).mean() * (ratios / ratios.mean()) ** alpha
    after = weights - rate * jax.grad(unlike)(weights, constant)
    found = gradnorm.scaled(weights - rate * gradnorm.pull(weights, norms, ratios, alpha))
    np.testing.assert_allclose(found, after * 3 / after.sum(), rtol=1e-6)
    assert float(found.sum()) == pytest.approx(3, rel=1e-6)
    np.testing.assert_allclose(gradnorm.scaled(jnp.asarray([-1.0, 1.0, 3.0])), [0, 0.75, 2.25])


def opposed(method, slices=1, **options):
    """A stage of two tasks whose labels of the same images contradict, (its State, a batch, both tasks' gradients)."""
    stage = tiny_stage("vit_cls", method=method, options=options, accumulate=slices, **FIELDS)
    (params, model_state), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    params["head"]["out"]["other"] = {name: params["head"]["out"][name] for name in ("kernel", "bias")}
    other = {"image": batch["image"], "label": (batch["label"] + 1) % 3}
    batch = {**batch, "other": other}

    def loss(params, label, own):
        layer = params["head"]["out"] if own else params["head"]["out"]["other"]
        seen = port.forward(params, model_state, batch, taps=(FEATURES,)).taps[FEATURES]
        logits = seen @ layer["kernel"] + layer["bias"]
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=2)
    found = [gradient(params, batch["label"], True), gradient(params, other["label"], False)]
    state = stage.enter(params, model_state, 0)
    return stage, state, batch, [float(x) for x, _ in found], [flatten(g) for _, g in found]


def stepped(stage, state, batch):
    """({path: what the step took from it, over the rate}, the State after it, its metrics)."""
    after, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    before, now = flatten(state.params), flatten(after.params)
    return {path: np.asarray(before[path] - now[path]) / RATE for path in before}, after, metrics


@pytest.mark.parametrize("slices", [1, pytest.param(2, marks=pytest.mark.system)])
def test_pcgrad_step_by_hand(slices):
    """Two opposed tasks: each loses what it has against the other in the backbone; heads take their own gradients."""
    stage, state, batch, losses, (one, two) = opposed("pcgrad", slices)
    found, _, metrics = stepped(stage, state, batch)
    shared = [path for path in one if not path.startswith("head/out/")]
    product = sum(float((one[path] * two[path]).sum()) for path in shared)
    sizes = [sum(float(np.square(g[path]).sum()) for path in shared) for g in (one, two)]
    assert product < -1e-3
    for path, leaf in found.items():
        wanted = one[path] + two[path]
        if path in shared:
            wanted = wanted - product / sizes[1] * two[path] - product / sizes[0] * one[path]
        np.testing.assert_allclose(leaf, wanted, rtol=0, atol=4e-6, err_msg=path)
    assert float(metrics["loss"]) == pytest.approx(sum(losses), rel=1e-5)


def test_gradnorm_steps_by_hand():
    """The first step has equal weights and takes note of the losses; the weights after it follow from both norms."""
    stage, state, batch, losses, both = opposed("gradnorm", weight_rate=0.1)
    found, after, metrics = stepped(stage, state, batch)
    for path, leaf in found.items():
        np.testing.assert_allclose(leaf, both[0][path] + both[1][path], rtol=0, atol=4e-6, err_msg=path)
    last = [path for path in both[0] if path.startswith("block_1/")]
    norms = np.array([np.sqrt(sum(float(np.square(g[path]).sum()) for path in last)) for g in both])
    np.testing.assert_allclose([metrics["norm/main"], metrics["norm/other"]], norms, rtol=1e-4)
    weights = 1 - 0.1 * np.sign(norms - norms.mean()) * norms
    weights *= 2 / weights.sum()
    kept = {name: [float(after.extra[name][task]) for task in ("main", "other")] for name in ("weights", "first")}
    np.testing.assert_allclose(kept["weights"], weights, rtol=1e-5)
    np.testing.assert_allclose(kept["first"], losses, rtol=1e-5)
    assert abs(weights[0] - 1) > 1e-3


def test_gradnorms_weights_with_adam():
    """A first step of Adam moves each weight by the rate; the second by optax's of both slopes."""
    stage, state, batch, _, _ = opposed("gradnorm", weight_rate=0.1, adam=True)
    rule, weights, first = optax.adam(0.1), jnp.ones(2), None
    moments = rule.init(weights)
    for _ in range(2):
        _, state, metrics = stepped(stage, state, batch)
        losses, norms = (
            jnp.stack([metrics[f"{kind}/{task}"] for task in ("main", "other")]) for kind in ("loss", "norm")
        )
        first = losses if first is None else first
        change, moments = rule.update(gradnorm.pull(weights, norms, losses / first, 1.5), moments)
        weights = gradnorm.scaled(weights + change)
        found = [float(state.extra["weights"][task]) for task in ("main", "other")]
        np.testing.assert_allclose(found, weights, rtol=1e-5)
    assert abs(weights[0] - 1) > 0.05


def test_uncertainty_step_by_hand():
    """s = 0 at first: weights are 1, and 1/2 of a squared error; ds is 1/2 less the loss so weighed."""
    stage, state, batch, losses, (one, two) = opposed("uncertainty", regression=("other",))
    found, after, metrics = stepped(stage, state, batch)
    for path, leaf in one.items():
        np.testing.assert_allclose(found[path], leaf + 0.5 * two[path], rtol=0, atol=4e-6, err_msg=path)
    factors = {"main": losses[0], "other": 0.5 * losses[1]}
    for task, value in factors.items():
        assert float(found[f"uncertainty/head/out/{task}/scale"]) == pytest.approx(0.5 - value, abs=2e-6)
    assert float(metrics["loss"]) == pytest.approx(sum(factors.values()), rel=1e-5)
    noise = {task: RATE * (value - 0.5) for task, value in factors.items()}
    _, _, metrics = stepped(stage, after, batch)
    assert float(metrics["weight/main"]) == pytest.approx(np.exp(-noise["main"]), rel=1e-5)
    assert float(metrics["weight/other"]) == pytest.approx(0.5 * np.exp(-noise["other"]), rel=1e-5)


@pytest.mark.parametrize("method", ["pcgrad", "gradnorm", "uncertainty"])
def test_the_name_of_the_main_task_is_taken(method):
    config = tiny_config("vit_cls", method=method)
    config.stream = {"main": config.stream.other.to_dict()}
    experiment = resolve(config)
    with pytest.raises(InputError, match="config.stream.main: this is the name of the main task; rename the stream"):
        make_stages(experiment, *make_port(experiment, 3), streams={"main": 3})


@pytest.mark.parametrize("method", ["pcgrad", "gradnorm", "uncertainty"])
def test_one_task_is_refused(method):
    config = tiny_config("vit_cls", method=method)
    config.stream.other.weight = 0.0
    experiment = resolve(config)
    with pytest.raises(InputError, match=f"'{method}' trains on several tasks, and the config has one; add"):
        make_stages(experiment, *make_port(experiment, 3), streams={"other": 3})


@pytest.mark.parametrize(
    ("method", "case", "options", "line"),
    [
        ("gradnorm", "vit_cls", {"layer": "block_9"}, "config.options.layer: expected one of .*, found 'block_9'"),
        ("gradnorm", "resnet_basic", {"layer": "head"}, "gradnorm: nothing that the tasks share trains in head"),
        (
            "uncertainty",
            "vit_cls",
            {"regression": ("age",)},
            "config.options.regression: expected names of main, other",
        ),
    ],
)
def test_options_that_name_nothing_are_refused(method, case, options, line):
    with pytest.raises(InputError, match=line):
        stage = tiny_stage(case, method=method, options=options)
        jax.eval_shape(make_train_step(stage.spec), stage.blank(0), stage.example())
