"""Methods that adapt kernels: the backbone at step 0, exact when merged, and what they leave out."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.rules import flatten, unflatten
from jaxfer.step import make_eval_step
from tests.experiments import backbone, batches, tiny_stage

# {method: options of a small adapter}
ADAPTERS = {
    "ia3": {},
    "dora": {"rank": 2, "alpha": 6.0},
    "vera": {"rank": 5},
    "loha": {"rank": 2, "alpha": 6.0},
    "lokr": {"rank": 2, "alpha": 6.0},
    "oft": {"block": 4},
}


@functools.cache
def plain(case):
    """The plain model, compiled once for all methods."""
    port = tiny_stage(case).spec.port
    return jax.jit(lambda params, model_state, batch: port.apply(params, model_state, batch)[0])


@pytest.mark.parametrize("case", ["vit_cls", "resnet_basic"])
@pytest.mark.parametrize("method", ADAPTERS)
def test_the_backbone_at_step_0_and_exact_when_merged(method, case):
    stage = tiny_stage(case, method=method, options=ADAPTERS[method])
    params, model_state = backbone(stage)
    state, (batch,) = stage.enter(params, model_state, 0), batches(stage, 1)
    program = jax.jit(make_eval_step(stage.spec))
    adapted = program(state.params, model_state, state.extra, batch)["collected"]
    start = plain(case)(params, model_state, batch)
    scale = max(1, float(np.abs(start).max()))
    np.testing.assert_array_equal(adapted, start)
    rng, leaves = np.random.default_rng(0), flatten(state.params)
    for path in [path for path in leaves if path.startswith(f"{method}/")]:
        leaves[path] += jnp.asarray(0.2 * rng.normal(size=leaves[path].shape), jnp.float32)
    adapted = program(unflatten(leaves), model_state, state.extra, batch)["collected"]
    merged = stage.spec.method.merge(unflatten(leaves), state.extra)
    assert np.abs(adapted - start).max() > 1e-2
    np.testing.assert_allclose(adapted, plain(case)(merged, model_state, batch), rtol=0, atol=1e-5 * scale)


# {method: (model, a kernel that it can't adapt, why)}
LEFT_OUT = {
    "ia3": ("bit", "block_0/conv_1/kernel", "a standardised kernel, which takes up no scale"),
    "dora": ("bit", "block_0/conv_1/kernel", "a standardised kernel, which has no length"),
    "lokr": ("resnet_grouped", "block_0/conv_2/kernel", "a grouped convolution, whose channels are parted already"),
    "oft": ("bit", "block_0/conv_1/kernel", "a standardised kernel, whose channels are not turned"),
}


@pytest.mark.parametrize("method", LEFT_OUT)
def test_a_kernel_that_cannot_be_adapted_is_left_out_or_refused(method):
    case, path, reason = LEFT_OUT[method]
    name = "outputs" if method == "ia3" else "targets"
    with pytest.raises(InputError, match=f"{method}: can't adapt {path}, {reason}; leave it out of '{name}'"):
        tiny_stage(case, method=method, options={name: (path,)})
