"""SSF: the published count, a layer by hand, the start, and what layers of every kind take up."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.method import NOTHING
from jaxfer.ports import port_shapes
from jaxfer.registry import METHODS, MODELS
from jaxfer.rules import flatten
from tests.experiments import tiny_stage


def made(case, **options):
    """(port, method, its parameters, the model's state), the scales and shifts away from 1 and 0."""
    port = tiny.make(case)
    method = METHODS.make("ssf", port, **options)
    params, model_state = tiny.draw(port)
    params, _ = method.init(params, jax.random.key(0), NOTHING)
    return port, method, params, model_state


def caught(port, params, model_state, batch, intercept, site):
    found = {}

    def catch(next_fun, args, kwargs, context):
        outputs = intercept(next_fun, args, kwargs, context) if intercept else next_fun(*args, **kwargs)
        found["/".join(context.module.path)] = args, outputs
        return outputs

    port.apply(params, model_state, batch, intercept=catch)
    return found[site]


def test_the_published_count():
    """The paper has 0.205 M for ViT-B/16 without its head."""
    port = MODELS.make("vit", outputs=100)
    shapes = jax.eval_shape(METHODS.make("ssf", port).init, port_shapes(port)[0], jax.random.key(0), NOTHING)[0]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["ssf"])) == 205_824


def test_a_start_near_the_source_model_or_at_it():
    leaves = {path: np.asarray(leaf) for path, leaf in flatten(made("vit_cls")[2]["ssf"]).items()}
    scales, shifts = ([x.ravel() for p, x in leaves.items() if p.endswith(name)] for name in ("/scale", "/bias"))
    for drawn, mean in ((np.concatenate(scales), 1), (np.concatenate(shifts), 0)):
        assert abs(drawn.mean() - mean) < 4e-3 and drawn.std() == pytest.approx(0.02, rel=0.1)
    port, method, params, _ = made("vit_cls", std=0.0)
    batch, plain = tiny.batch(port), method.view(params, {})
    adapted = port.apply(plain, {}, batch, intercept=method.intercept(params, {}))[0]
    np.testing.assert_array_equal(adapted, port.apply(plain, {}, batch)[0])


@pytest.mark.parametrize("case,site", [("vit_cls", "block_1/attn/query"), ("resnet_basic", "block_1/norm_1")])
def test_a_layer_by_hand(case, site):
    port, method, params, model_state = made(case, std=0.3)
    plain, batch = method.view(params, {}), tiny.batch(port)
    args, adapted = caught(port, plain, model_state, batch, method.intercept(params, {}), site)
    (ours, theirs), x = (_at(tree, site) for tree in (params["ssf"], plain)), np.asarray(args[0], float)
    if "kernel" in theirs:
        y = np.tensordot(x, theirs["kernel"], 1) + theirs["bias"]
    else:
        state = _at(model_state["batch_stats"], site)
        y = (x - state["mean"]) / np.sqrt(state["var"] + 1e-5) * theirs["scale"] + theirs["bias"]
    np.testing.assert_allclose(adapted, y * ours["scale"] + ours["bias"], rtol=1e-5, atol=1e-5)


def _at(tree, site):
    leaves = {path: np.asarray(leaf, float) for path, leaf in flatten(tree).items()}
    return {path.removeprefix(f"{site}/"): leaf for path, leaf in leaves.items() if path.startswith(f"{site}/")}


@pytest.mark.parametrize(
    "case", ["decoder_gemma", "convnext_v1", "swin_v2", "deberta", "efficientnet", "bit", "albert", "wav2vec2", "t5"]
)
def test_a_plain_model_takes_it_up(case):
    """RMSNorms of 1 + scale, windows of channels, lent norms, gates, standardised kernels, a block that runs twice."""
    port, method, params, model_state = made(case, std=0.1)
    batch = tiny.batch(port)

    @jax.jit
    def passed(params):
        plain = method.view(params, {})
        adapted = port.apply(plain, model_state, batch, intercept=method.intercept(params, {}))[0]
        merged = port.apply(method.merge(params, {}), model_state, batch)[0]
        return port.apply(plain, model_state, batch)[0], adapted, merged

    plain, adapted, merged = passed(params)
    assert jnp.abs(adapted - plain).max() > 1e-3
    np.testing.assert_allclose(merged, adapted, rtol=1e-5, atol=1e-5 * max(1, float(jnp.abs(adapted).max())))


def test_an_option_that_it_does_not_know():
    with pytest.raises(InputError, match=r"ssf: expected std in \[0, 1\), found -0.1"):
        tiny_stage("vit_cls", method="ssf", options={"std": -0.1})
