"""Adapters: both places by hand, the counts that the papers give, and what can't be done with them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer.errors import InputError
from jaxfer.method import NOTHING
from jaxfer.registry import METHODS, MODELS
from jaxfer.rules import flatten
from tests.experiments import backbone, batches, tiny_config, tiny_stage


@pytest.mark.parametrize("kind,bottleneck,count", [("houlsby", 64, 2_379_264), ("pfeiffer", 48, 894_528)])
def test_counts_on_bert_base(kind, bottleneck, count):
    """Twelve blocks of 768 channels; norms and head not counted."""
    port = MODELS.make("bert", outputs=2)
    method = METHODS.make("adapter", port, kind=kind, bottleneck=bottleneck)
    shapes = jax.eval_shape(port.init, jax.random.key(0), port.example(1))[0]
    params, _ = jax.eval_shape(method.init, shapes, jax.random.key(0), NOTHING)
    assert sum(leaf.size for path, leaf in flatten(params).items() if path.startswith("adapter/")) == count


def layer_norm(x, params):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-12) * params["scale"] + params["bias"]


def bottleneck(x, params, act):
    down, up = params["down"], params["up"]
    return act(x @ down["kernel"] + down["bias"]) @ up["kernel"] + up["bias"]


@pytest.mark.parametrize("kind", ["houlsby", "pfeiffer"])
def test_a_block_by_hand(kind):
    """From the block's input and its two branches, which units and layers without adapters give."""
    stage = tiny_stage("bert_pooler", method="adapter", options={"kind": kind, "bottleneck": 3})
    port, (batch,) = stage.spec.port, batches(stage, 1)
    state = stage.enter(*backbone(stage), 0)
    added = jax.tree.map(lambda leaf: leaf + 0.3, state.params["adapter"])  # away from the neutral start
    params, block = {**state.params, "adapter": added}, state.params["block_0"]
    x = port.apply(params, {}, batch, end="stem")[0]
    if kind == "houlsby":
        attention = _layer(port, state.params, batch, "block_0/attn/out")
        h = layer_norm(
            x + attention + bottleneck(attention, added["block_0"]["attn"]["out"], jax.nn.swish), block["norm_1"]
        )
        mlp = _mlp(h, block)
        wanted = layer_norm(h + mlp + bottleneck(mlp, added["block_0"]["mlp"]["fc2"], jax.nn.swish), block["norm_2"])
    else:
        h = layer_norm(x + _layer(port, state.params, batch, "block_0/attn/out"), block["norm_1"])
        total = h + _mlp(h, block)
        read = layer_norm(total, block["norm_2"])
        wanted = layer_norm(total + bottleneck(read, added["block_0"]["norm_2"], jax.nn.relu), block["norm_2"])
    intercept = stage.spec.method.intercept(params, state.extra)
    view = stage.spec.method.view(params, state.extra)
    found = port.apply(view, {}, batch, end="block_0", intercept=intercept)[0]
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


def _mlp(x, block):
    fc1, fc2 = block["mlp"]["fc1"], block["mlp"]["fc2"]
    hidden = jax.nn.gelu(x @ fc1["kernel"] + fc1["bias"], approximate=False)
    return hidden @ fc2["kernel"] + fc2["bias"]


def _layer(port, params, batch, site):
    """What one layer of the plain model gives."""
    caught = {}

    def catch(next_fun, args, kwargs, context):
        outputs = next_fun(*args, **kwargs)
        caught["/".join(context.module.path)] = outputs
        return outputs

    port.apply({k: v for k, v in params.items() if k != "adapter"}, {}, batch, intercept=catch)
    return caught[site]


@pytest.mark.system
def test_a_run_predicts_and_is_not_exported(tmp_path):
    config = tiny_config("vit_cls", method="adapter", options={"bottleneck": 3}, steps=2)
    jaxfer.run(config, tmp_path / "run", quiet=True)
    (answer,) = jaxfer.predict(tmp_path / "run", np.zeros((6, 9, 3), np.uint8))
    assert answer.error is None and len(answer.probabilities) == 3
    with pytest.raises(InputError, match="method 'adapter' adds modules that no plain ViT has"):
        jaxfer.export(tmp_path / "run")


def test_a_convolutional_network_has_no_place_for_them():
    with pytest.raises(InputError, match="adapter: the model has no transformer blocks to put adapters into; use lora"):
        tiny_stage("resnet_basic", method="adapter")
