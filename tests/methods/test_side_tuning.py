"""Side tuning: what is blended by hand, the start, and models without one vector of an image."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.method import NOTHING
from jaxfer.models.passes import FEATURES, Training
from jaxfer.registry import METHODS
from jaxfer.rules import flatten, unflatten
from tests.experiments import tiny_stage


def convolved(x, kernel, bias):
    """3 x 3 windows at every other place; TensorFlow's zeros around an image of an even side: after it alone."""
    rows, columns = x.shape[1:3]
    sides = [(0, 1) if side % 2 == 0 else (1, 1) for side in (rows, columns)]
    x = np.pad(x, ((0, 0), *sides, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))[:, ::2, ::2]
    return np.maximum(np.einsum("bhwcij,ijco->bhwo", windows, kernel) + bias, 0)


@pytest.mark.parametrize("case", ["vit_cls", "resnet_basic"])
def test_the_blend_by_hand(case):
    port = tiny.make(case)
    method, batch = METHODS.make("side_tuning", port, width=5, layers=2, alpha=0.7), tiny.batch(port)
    params, model_state = tiny.draw(port)
    params, _ = method.init(params, jax.random.key(0), NOTHING)
    side = {name: {k: np.float64(v) for k, v in leaf.items()} for name, leaf in params["side_tuning"]["head"].items()}
    x = np.float64(batch["image"])
    for i in range(2):
        x = convolved(x, **side[f"conv_{i}"])
    plain = method.view(params, {})
    base = np.float64(port.forward(plain, model_state, batch, taps=(FEATURES,)).taps[FEATURES])
    mixed = 0.7 * base + 0.3 * (x.mean((1, 2)) @ side["out"]["kernel"])
    out = {name: np.float64(leaf) for name, leaf in plain["head"]["out"].items()}
    found = port.apply(plain, model_state, batch, intercept=method.intercept(params, {}))[0]
    np.testing.assert_allclose(found, mixed @ out["kernel"] + out["bias"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["bert_pooler", "resnet_basic"])
def test_a_copy_beside_the_network(case):
    """It begins as the source model; after that both are blended, the copy with statistics that stand still."""
    stage = tiny_stage(case, method="side_tuning", options={"start": "copy", "alpha": 0.7})
    port, method = stage.spec.port, stage.spec.method
    (params, model_state), batch = tiny.draw(port), tiny.batch(port)
    given = dataclasses.replace(NOTHING, model_state=model_state)
    params, extra = method.init(params, jax.random.key(0), given)
    plain = method.view(params, extra)

    def adapted(params, **how):
        return port.apply(plain, model_state, batch, intercept=method.intercept(params, extra), **how)

    source, _ = port.apply(plain, model_state, batch)
    np.testing.assert_allclose(adapted(params)[0], source, rtol=1e-5, atol=1e-5)
    moved = {path: x if path.endswith("blend/bias") else 1.1 * x for path, x in flatten(params["side_tuning"]).items()}
    own = {path: x for path, x in moved.items() if not path.endswith("blend/bias")}
    assert own.keys() == {path for path in flatten(plain) if not path.startswith(f"{port.head}/")}

    def features(params, **how):
        read = port.forward(unflatten({**flatten(plain), **params}), model_state, batch, taps=(FEATURES,), **how)
        return np.float64(read.taps[FEATURES])

    out = {name: np.float64(leaf) for name, leaf in flatten(plain["head"]).items() if name.startswith("out/")}
    mixed = 0.7 * features({}) + 0.3 * features(own)
    found = adapted({**params, "side_tuning": unflatten(moved)})[0]
    np.testing.assert_allclose(found, mixed @ out["out/kernel"] + out["out/bias"], rtol=1e-4, atol=1e-4)
    assert np.abs(found - source).max() > 1e-3
    if model_state:
        training = Training(key=jax.random.key(0), live=frozenset(), eval_norms=frozenset())
        mixed = 0.7 * features({}, training=training) + 0.3 * features(own)
        found = adapted({**params, "side_tuning": unflatten(moved)}, training=training)[0]
        np.testing.assert_allclose(found, mixed @ out["out/kernel"] + out["out/bias"], rtol=1e-4, atol=1e-4)


def test_what_is_refused():
    with pytest.raises(InputError, match="side_tuning: its network reads images, and this model texts; use adapter"):
        tiny_stage("bert_pooler", method="side_tuning")
    with pytest.raises(InputError, match="side_tuning: blends one vector of an example"):
        METHODS.make("side_tuning", tiny.make("vit_mean", head="dense")).init({}, jax.random.key(0), NOTHING)
    with pytest.raises(InputError, match="side_tuning: expected alpha between 0 and 1, found 1.0"):
        tiny_stage("vit_cls", method="side_tuning", options={"alpha": 1.0})
    with pytest.raises(InputError, match="side_tuning: expected width >= 1 and layers >= 1, found 64 and 0"):
        tiny_stage("vit_cls", method="side_tuning", options={"layers": 0})
