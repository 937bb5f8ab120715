"""FiLM: the channels behind a norm by hand, the start, the counts, and networks without such norms."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.method import NOTHING
from jaxfer.ports import port_shapes
from jaxfer.registry import METHODS, MODELS
from jaxfer.rules import flatten
from tests.experiments import tiny_stage


@pytest.mark.parametrize(
    "options,channels", [({}, 4_800), ({"block": "bottleneck", "stage_sizes": (3, 4, 6, 3)}, 26_560)]
)
def test_two_numbers_for_each_channel_behind_a_norm(options, channels):
    """Of ResNet-18 and ResNet-50."""
    port = MODELS.make("resnet", outputs=2, **options)
    shapes = jax.eval_shape(METHODS.make("film", port).init, port_shapes(port)[0], jax.random.key(0), NOTHING)[0]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["film"])) == 2 * channels


def test_a_norm_by_hand_from_the_source_model_on():
    port = tiny.make("resnet_basic")
    method, batch, (params, model_state) = METHODS.make("film", port), tiny.batch(port), tiny.draw(port)
    params, _ = method.init(params, jax.random.key(0), NOTHING)
    plain, caught = method.view(params, {}), []

    def run(params):
        intercept = method.intercept(params, {})

        def catch(next_fun, args, kwargs, context):
            outputs = intercept(next_fun, args, kwargs, context)
            if context.module.path == ("block_0", "norm_1"):
                caught.append(outputs)
            return outputs

        return port.apply(plain, model_state, batch, intercept=catch)[0]

    np.testing.assert_array_equal(run(params), port.apply(plain, model_state, batch)[0])
    learned = jax.tree.map(lambda leaf: leaf + 0.3, params["film"])
    scale, bias = (np.asarray(learned["block_0"]["norm_1"][name]) for name in ("scale", "bias"))
    run({**params, "film": {"block_0": {"norm_1": {"scale": scale, "bias": bias}}}})
    np.testing.assert_allclose(caught[1], scale * np.asarray(caught[0]) + bias, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    "case,why",
    [("vit_cls", "this model is none"), ("row_mlp", "this model is none"), ("alexnet", "no norms to put it behind")],
)
def test_a_network_without_such_norms(case, why):
    with pytest.raises(InputError, match=f"^film: .*{why}; use ssf"):
        tiny_stage(case, method="film")


def test_a_convnext_has_them():
    sites = {path.rsplit("/", 1)[0] for path in tiny_stage("convnext_v1", method="film").leaves() if "film/" in path}
    norms = {path.rsplit("/", 1)[0] for path in flatten(tiny.draw(tiny.make("convnext_v1"))[0]) if "/norm/" in path}
    assert sites == {f"film/{path}" for path in norms}
