"""Add-ons, put on any method: averages for evaluation (ema), gradients where the loss is worst (sam)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.method import NOTHING, Context
from jaxfer.methods import ema
from jaxfer.methods._averages import averaged
from jaxfer.rules import flatten, unflatten
from jaxfer.step import make_eval_step
from jaxfer.training.programs import eval_arguments
from tests.experiments import backbone, batches, tiny_stage, train


def test_the_average_by_hand():
    """Of three steps: d = min(decay, 1 - (1 + step) ** (-2/3)) from step 1 on."""
    stage = tiny_stage("vit_cls", method="lora", adds=("ema",), options={"decay": 0.5}, lr=0.1)
    lora, (start, _) = tiny_stage("vit_cls", method="lora", lr=0.1), backbone(stage)
    average = {path: np.asarray(x) for path, x in flatten(stage.enter(start, {}, 0).params).items()}
    for steps in (1, 2, 3):
        now, decay = flatten(train(lora, steps)[0].params), min(0.5, 1 - (1 + steps) ** (-2 / 3))
        average = {path: decay * x + (1 - decay) * np.asarray(now[path]) for path, x in average.items()}
    state, _ = train(stage, 3)
    assert all(path.startswith(("lora/", "head/out/")) for path in state.extra["average"])
    for path, leaf in state.extra["average"].items():
        np.testing.assert_allclose(leaf, average[path], rtol=1e-5, atol=1e-6)
    for path, leaf in flatten(state.params).items():  # what is trained is not changed by averaging it
        np.testing.assert_array_equal(leaf, now[path])


def test_what_is_left_of_the_start_after_500_steps():
    """timm's constant 0.9998 leaves 0.905 of it, the warm-up the product of its decays: in float64, by the update."""
    left = {}
    with jax.enable_x64(True):
        for warm_up in (False, True):
            stage = tiny_stage("vit_cls", method="probe")
            method = ema.add(stage.spec.method, stage.spec.port, warm_up=warm_up)
            hparams, params = {"decay": jnp.float64(0.9998)}, {"head": {"out": {"kernel": jnp.zeros((), jnp.float64)}}}
            extra = {"base": {}, "average": {"head/out/kernel": jnp.ones((), jnp.float64)}}

            def step(i, extra, method=method, hparams=hparams, params=params):
                return method.update(Context(None, None, {}, params, extra, hparams, {}, i, None), extra)

            left[warm_up] = float(jax.lax.fori_loop(0, 500, step, extra)["average"]["head/out/kernel"])
    assert left[False] == pytest.approx(0.9998**500, abs=1e-9) and round(left[False], 3) == 0.905
    decays = np.minimum(0.9998, 1 - np.arange(2.0, 502.0) ** (-2 / 3))
    assert left[True] == pytest.approx(np.prod(decays), abs=1e-9) and left[True] < 1e-7


def test_low_rank_averaged_and_sharpness_aware_on_any_devices():
    """Three things at once: on 4 devices, sharded and under pmap they train what one device does."""
    stage = tiny_stage("vit_cls", method="lora", adds=("ema", "sam"), optimizer="sgd", lr=1e-2)
    one, losses = train(stage, 5, devices=1)
    for mode in ("jit", "fsdp", "pmap"):
        other, others = train(stage, 5, mode=mode, devices=4)
        np.testing.assert_allclose(others, losses, rtol=1e-5, atol=2e-5)
        for name in ("params", "extra"):
            found, expected = flatten(getattr(other, name)), flatten(getattr(one, name))
            for path, leaf in expected.items():
                np.testing.assert_allclose(found[path], leaf, rtol=1e-4, atol=2e-5, err_msg=f"{mode} {name} {path}")


def test_what_is_kept_beside_the_parameters():
    """The trained leaves and numbers that begin at 0; nothing of the frozen backbone."""
    method = averaged(tiny_stage("vit_cls", method="probe").spec.method, move=lambda ctx, kept, now: kept, sums=("n",))
    params, kept = method.init(backbone(tiny_stage("vit_cls"))[0], jax.random.key(0), NOTHING)
    assert set(kept) == {"base", "average", "n"} and kept["n"] == 0
    assert set(kept["average"]) == {path for path in flatten(params) if path.startswith("head/out/")}


def test_evaluation_and_merge_use_the_average():
    stage = tiny_stage("vit_cls", method="full", adds=("ema",), options={"decay": 0.5}, lr=0.1)
    state, (batch,) = train(stage, 3)[0], batches(stage, 1, seed=9)
    evaluated = jax.jit(make_eval_step(stage.spec))(*eval_arguments(stage.spec, state), batch)["collected"]
    merged, model_state = stage.leave(state)
    alone = jax.jit(lambda: stage.spec.port.apply(merged, model_state, batch)[0])()
    last = jax.jit(lambda: stage.spec.port.apply(state.params, model_state, batch)[0])()
    np.testing.assert_allclose(evaluated, alone, rtol=1e-5, atol=1e-6)
    assert np.abs(evaluated - last).max() > 1e-3


@pytest.mark.parametrize("method", ["lora", "vpt"])
def test_what_intercepts_is_evaluated_at_the_average_as_well(method):
    """The interceptor reads the average of its own parameters, beside that of the head."""
    stage = tiny_stage("vit_cls", method=method, adds=("ema",), options={"decay": 0.5}, lr=0.3)
    state, (batch,) = train(stage, 4)[0], batches(stage, 1, seed=9)
    plain, leaves, average = tiny_stage("vit_cls", method=method).spec, flatten(state.params), state.extra["average"]
    assert any(np.abs(average[path] - leaves[path]).max() > 1e-3 for path in average if path.startswith(method))
    evaluated = jax.jit(make_eval_step(stage.spec))(*eval_arguments(stage.spec, state), batch)["collected"]
    at = state.replace(params=unflatten({**leaves, **average}), extra=state.extra["base"])
    wanted = jax.jit(make_eval_step(plain))(*eval_arguments(plain, at), batch)["collected"]
    np.testing.assert_allclose(evaluated, wanted, rtol=1e-6, atol=1e-6)


def test_running_statistics_are_averaged_too():
    """Of three steps, as the parameters are; the statistics that training itself moves stay as they are."""
    options = {"decay": 0.5, "buffers": True}
    stage = tiny_stage("resnet_basic", adds=("ema",), options=options, lr=0.1)
    plain, (_, start) = tiny_stage("resnet_basic", lr=0.1), backbone(stage)
    average = {path: np.asarray(x) for path, x in flatten(start).items()}
    for steps in (1, 2, 3):
        now, decay = flatten(train(plain, steps)[0].model_state), min(0.5, 1 - (1 + steps) ** (-2 / 3))
        average = {path: decay * x + (1 - decay) * np.asarray(now[path]) for path, x in average.items()}
    state, (batch,) = train(stage, 3)[0], batches(stage, 1, seed=9)
    for path, leaf in flatten(state.model_state).items():
        np.testing.assert_array_equal(leaf, now[path])
    merged, left = stage.leave(state)
    for path, leaf in flatten(left).items():
        np.testing.assert_allclose(leaf, average[path], rtol=1e-5, atol=1e-6)
    evaluated = jax.jit(make_eval_step(stage.spec))(*eval_arguments(stage.spec, state), batch)["collected"]
    alone = jax.jit(lambda: stage.spec.port.apply(merged, left, batch)[0])()
    np.testing.assert_allclose(evaluated, alone, rtol=1e-5, atol=1e-6)
    assert np.abs(evaluated - stage.spec.port.apply(merged, state.model_state, batch)[0]).max() > 1e-3
    with pytest.raises(InputError, match="options.buffers: averages running statistics, and the model has none"):
        tiny_stage("vit_cls", adds=("ema",), options=options)


@pytest.mark.parametrize(
    ("slices", "adaptive"), [(1, False), (1, True), pytest.param(2, False, marks=pytest.mark.system)]
)
def test_the_gradient_is_that_at_the_worst_point_nearby(slices, adaptive):
    """One SGD step of sam is w - lr * gradient(w + rho T^2 g / |T g|), g being the gradient at w, of whole batches.

    T is 1; of ASAM |w| + 0.01 but for biases.
    """
    rate, rho, fields = 0.1, 0.3, {"optimizer": "sgd", "momentum": 0.0, "accumulate": slices}
    options = {"rho": rho, "adaptive": adaptive}
    stage = tiny_stage("vit_cls", method="full", adds=("sam",), options=options, lr=rate, **fields)
    (params, _), (batch,) = backbone(stage), batches(stage, 1)

    def loss(params):
        outputs = stage.spec.port.apply(params, {}, batch)[0]
        return stage.spec.task.loss(outputs, batch, {"label_smoothing": 0.0}).value()

    gradient = jax.jit(jax.grad(loss))
    first = flatten(gradient(params))
    scale = {
        path: np.abs(w) + 0.01 if adaptive and not path.endswith("/bias") else np.ones_like(w)
        for path, w in flatten(params).items()
    }
    norm = np.sqrt(sum(float(np.square(scale[path] * g).sum()) for path, g in first.items()))
    worst = {path: w + rho * scale[path] ** 2 * first[path] / norm for path, w in flatten(params).items()}
    second = gradient(unflatten(worst))
    wanted = flatten(jax.tree.map(lambda w, g: w - rate * g, params, second))
    for path, leaf in flatten(train(stage, 1)[0].params).items():
        np.testing.assert_allclose(leaf, wanted[path], rtol=1e-4, atol=1e-6)


def test_add_ons_are_found_by_name():
    with pytest.raises(InputError, match="unknown add-on 'emma'; nearest: 'ema'"):
        tiny_stage("vit_cls", adds=("emma",))


def test_an_experiment_without_add_ons_is_what_it_was():
    from jaxfer.config import resolve
    from tests.experiments import tiny_config

    plain, added = (resolve(tiny_config("vit_cls", adds=adds)) for adds in ((), ("ema",)))
    assert "adds" not in plain.to_dict() and "stage.train.adds" not in plain.identity()
    assert added.to_dict()["adds"] == ("ema",) and added.identity()["stage.train.adds"] == ("ema",)
