"""Prefix tuning: counts, keys and values of a block by hand, the MLP they come from, and what is refused."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxfer.conformance import tiny
from jaxfer.errors import InputError
from jaxfer.method import NOTHING
from jaxfer.methods.prefix_tuning import attentions, made
from jaxfer.models.attention import attention
from jaxfer.ports import port_shapes
from jaxfer.registry import METHODS, MODELS
from jaxfer.rules import flatten, unflatten
from tests.experiments import tiny_stage


@pytest.mark.parametrize("hidden,count", [(0, 368_640), (512, 20 * 768 + 769 * 512 + 513 * 12 * 2 * 768)])
def test_counts_on_roberta_base(hidden, count):
    """Without the MLP peft's; with it rows, a layer and one for all keys and values."""
    port = MODELS.make("roberta", outputs=2)
    init = METHODS.make("prefix_tuning", port, hidden=hidden).init
    params, _ = jax.eval_shape(init, port_shapes(port)[0], jax.random.key(0), NOTHING)
    assert sum(leaf.size for leaf in jax.tree.leaves(params["prefix_tuning"])) == count


@pytest.mark.parametrize("hidden", [0, 5])
def test_by_hand(hidden):
    """The second block's attention, from what its layers give and from the leaves."""
    port = tiny.make("bert_pooler")
    method, batch = METHODS.make("prefix_tuning", port, tokens=2, hidden=hidden), tiny.batch(port)
    params, _ = method.init(tiny.draw(port)[0], jax.random.key(0), NOTHING)
    params["prefix_tuning"] = jax.tree.map(lambda leaf: 3 * leaf, params["prefix_tuning"])
    leaves, intercept, caught = flatten(params["prefix_tuning"]), method.intercept(params, {}), {}

    def catch(next_fun, args, kwargs, context):
        outputs = intercept(next_fun, args, kwargs, context)
        caught["/".join(context.module.path)] = outputs
        return outputs

    plain = method.view(params, {})
    adapted = port.apply(plain, {}, batch, intercept=catch)[0]
    if hidden:
        inside = np.tanh(leaves["block_0/rows"] @ leaves["block_0/hidden/kernel"] + leaves["block_0/hidden/bias"])
        made = np.einsum("nj,jkhd->knhd", inside, leaves["block_1/attn/mix/kernel"])
        keys, values = made + np.asarray(leaves["block_1/attn/mix/bias"])[:, None]
    else:
        keys, values = leaves["block_1/attn/mix/prefix"]
    layers = [caught[f"block_1/attn/{name}"] for name in ("query", "key", "value")]
    many = [np.broadcast_to(x, (len(layers[0]), *x.shape)) for x in (keys, values)]
    both = [np.concatenate([first, x], 1) for first, x in zip(many, layers[1:], strict=True)]
    mask = np.pad(batch["attention_mask"], ((0, 0), (2, 0)), constant_values=1)
    wanted = attention(layers[0], *both, mask)
    np.testing.assert_allclose(caught["block_1/attn/mix"], wanted, rtol=1e-5, atol=1e-6)
    assert np.abs(adapted - port.apply(plain, {}, batch)[0]).max() > 1e-3


@pytest.mark.parametrize(
    "case,changes,sites",
    [
        (
            "t5",
            {"head": "seq2seq"},
            {"encoder_block_0/attn/mix", "decoder_block_0/attn/mix", "decoder_block_0/cross/mix"},
        ),
        ("clip", {}, {"image_block_0/attn/mix", "text_block_0/attn/mix"}),
        ("decoder_qwen", {}, {"block_1/attn/mix"}),
        ("deberta", {}, {"block_1/attn/mix"}),
        ("beit_layer", {}, {"block_1/attn/mix"}),
    ],
)
def test_attention_of_every_kind_takes_them(case, changes, sites):
    """Decoders and what they see of a memory, towers, shared heads, biases by distance: a pass, traced."""
    port = tiny.make(case, **changes)
    method = METHODS.make("prefix_tuning", port, tokens=3, hidden=4)
    assert sites <= attentions(port).keys()

    def run(params, model_state, batch):
        params, extra = method.init(params, jax.random.key(0), NOTHING)
        how = dict(intercept=method.intercept(params, extra))
        return port.apply(method.view(params, extra), model_state, batch, **how)[0]

    plain = jax.eval_shape(lambda *given: port.apply(*given)[0], *port_shapes(port), port.example(2))
    assert jax.eval_shape(run, *port_shapes(port), port.example(2)).shape == plain.shape


def test_a_stack_by_itself():
    """Rows and a layer for T5's encoder, its decoder and what that sees of the memory: keys follow their own rows."""
    port = tiny.make("t5", head="seq2seq")
    method = METHODS.make("prefix_tuning", port, tokens=3, hidden=4, apart=True)
    params, _ = jax.jit(method.init)(tiny.draw(port)[0], jax.random.key(0), NOTHING)
    learned = params["prefix_tuning"]
    tops = {path.removesuffix("/rows") for path in flatten(learned) if path.endswith("/rows")}
    assert tops == {"encoder_block_0", "decoder_block_0", "decoder_block_0/cross"}
    before = made(learned, port)
    for top in tops:
        changed = unflatten({path: x + (path == f"{top}/rows") for path, x in flatten(learned).items()})
        now = made(changed, port)
        moved = {site for site in now if np.any(np.asarray(now[site]) != np.asarray(before[site]))}
        stack, crossed = top.split("_")[0], top.endswith("cross")
        assert moved == {site for site in now if site.startswith(stack) and ("/cross/" in site) == crossed}, top
    alone = METHODS.make("prefix_tuning", tiny.make("bert_pooler"), hidden=4, apart=True)
    shared = METHODS.make("prefix_tuning", tiny.make("bert_pooler"), hidden=4)
    drawn = [m.init(tiny.draw(tiny.make("bert_pooler"))[0], jax.random.key(0), NOTHING)[0] for m in (alone, shared)]
    jax.tree.map(np.testing.assert_array_equal, *drawn)  # one stack


def test_what_is_refused():
    with pytest.raises(
        InputError, match="prefix_tuning: the model has no transformer blocks whose attention takes keys"
    ):
        tiny_stage("resnet_basic", method="prefix_tuning")
    with pytest.raises(InputError, match="prefix_tuning: expected tokens >= 1, found 0"):
        tiny_stage("bert_pooler", method="prefix_tuning", options={"tokens": 0})
    with pytest.raises(InputError, match="prefix_tuning: expected hidden >= 0, found -1; 0 has no MLP"):
        tiny_stage("bert_pooler", method="prefix_tuning", options={"hidden": -1})
