"""Adapters: both places by hand, the counts that the papers give, and what can't be done with them."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxfer
from jaxfer.conformance import families, tiny
from jaxfer.errors import InputError
from jaxfer.method import NOTHING
from jaxfer.methods._blocks import blocks
from jaxfer.models.passes import Training
from jaxfer.models.transformer import Block
from jaxfer.ports import port_shapes
from jaxfer.registry import METHODS, MODELS
from jaxfer.rules import flatten
from tests.experiments import backbone, batches, tiny_config, tiny_stage


@pytest.mark.parametrize(
    "kind,bottleneck,count",
    [
        ("houlsby", 64, 2_379_264),
        ("houlsby", 0, 2 * 894_528),
        ("pfeiffer", 0, 894_528),  # 48 channels
        ("parallel", 0, 12 * (2 * 768 * 384 + 384 + 768)),
        ("adaptformer", 0, 12 * (2 * 768 * 64 + 64 + 768)),
    ],
)
def test_counts_on_bert_base(kind, bottleneck, count):
    """Twelve blocks of 768 channels; norms and head not counted. 0: the kind's own bottleneck."""
    port = MODELS.make("bert", outputs=2)
    method = METHODS.make("adapter", port, kind=kind, bottleneck=bottleneck)
    shapes = jax.eval_shape(port.init, jax.random.key(0), port.example(1))[0]
    params, _ = jax.eval_shape(method.init, shapes, jax.random.key(0), NOTHING)
    assert sum(leaf.size for path, leaf in flatten(params).items() if path.startswith("adapter/")) == count


@functools.cache
def called(case):
    """{path: module} of the modules that a pass of the model calls."""
    port, found = tiny.make(case), {}

    def watch(next_fun, args, kwargs, context):
        found["/".join(context.module.path)] = context.module
        return next_fun(*args, **kwargs)

    with nn.intercept_methods(watch):
        jax.eval_shape(lambda *given: port.init(*given), jax.random.key(0), port.example(2))  # traced anew
    return found


@pytest.mark.parametrize(
    "kind,places",
    [
        ("houlsby", 2),
        ("parallel", 1),
        *(pytest.param(kind, 1, marks=pytest.mark.rest) for kind in ("pfeiffer", "adaptformer")),
    ],
)
def test_every_block_of_every_family_is_reached(kind, places):
    """By a module that is called, and so intercepted: towers, decoders, a block that is run several times."""
    reached = set()
    for case in (*families(), "decoder_gemma"):
        there = blocks(flatten(port_shapes(tiny.make(case))[0]))
        if there:
            stage = tiny_stage(case, method="adapter", options={"kind": kind, "bottleneck": 3})
            sites = {path[8:].rsplit("/", 2)[0] for path in stage.leaves() if path.startswith("adapter/")}
            assert sites <= called(case).keys() and len(sites) == places * len(there), case
            reached.add(case)
    assert {"albert", "clip", "t5", "whisper", "swin_v1", "wav2vec2"} <= reached


@pytest.mark.parametrize("batch_norm", [True, False])
def test_behind_a_norm_of_batch_statistics(batch_norm):
    """A post-norm PatchTST, whose norms are either."""
    stage = tiny_stage("patchtst", method="adapter", options={"kind": "pfeiffer"})
    options = dataclasses.replace(stage.spec.port.options, order="post", norm="batch" if batch_norm else "layer")
    port = MODELS.get("patchtst")(options, outputs=3)
    method = METHODS.make("adapter", port, kind="pfeiffer", bottleneck=3)
    params, model_state = tiny.draw(port)
    params, extra = method.init(params, jax.random.key(0), NOTHING)
    trained = Training(key=jax.random.key(0), live=frozenset(port.units), eval_norms=frozenset())
    for training in (None, trained):
        how = dict(training=training, intercept=method.intercept(params, extra))
        outputs, after = jax.eval_shape(functools.partial(port.apply, **how), params, model_state, port.example(4))
        assert outputs.shape[0] == 4 and jax.tree.structure(after) == jax.tree.structure(model_state)


def test_a_decoders_attention_to_its_memory_has_one_too():
    port = tiny.make("t5", head="seq2seq")
    params, _ = jax.eval_shape(METHODS.make("adapter", port).init, port_shapes(port)[0], jax.random.key(0), NOTHING)
    assert {"attn", "cross", "mlp"} == params["adapter"]["decoder_block_0"].keys()


def test_the_options_say_where_the_blocks_have_their_norms():
    for case in families():
        specs = {module.spec.order for module in called(case).values() if isinstance(module, Block)}
        assert specs <= {tiny.make(case).order}, case


@pytest.mark.parametrize(
    "kind,scale,before", [("parallel", 4.0, None), ("adaptformer", 0.1, None), ("adaptformer", 0.1, True)]
)
def test_beside_the_mlp(kind, scale, before):
    """Nothing at the start; then the bottleneck of what the MLP reads, or the norm before it, scaled."""
    stage = tiny_stage("vit_cls", method="adapter", options={"kind": kind, "bottleneck": 3, "before_norm": before})
    port, (batch,) = stage.spec.port, batches(stage, 1)
    state = stage.enter(*backbone(stage), 0)
    down = state.params["adapter"]["block_0"]["mlp"]["down"]["kernel"]
    assert 0.5 / np.sqrt(12) < np.abs(down).max() <= 1 / np.sqrt(12)  # as torch draws a Linear of 12 inputs
    plain, params = (stage.spec.method.view(state.params, {}), state.params["adapter"])
    run = functools.partial(port.apply, plain, {}, batch, end="block_0")
    intercept = functools.partial(stage.spec.method.intercept, extra={})
    np.testing.assert_array_equal(run(intercept=intercept(state.params))[0], run()[0])
    added = jax.tree.map(lambda leaf: leaf + 0.3, params)
    read = _layer(port, state.params, batch, "block_0/norm_2")
    if before:
        read = port.apply(plain, {}, batch, end="stem")[0] + _layer(port, state.params, batch, "block_0/attn/out")
    wanted = run()[0] + scale * bottleneck(read, added["block_0"]["mlp"], jax.nn.relu)
    found = run(intercept=intercept({**plain, "adapter": added}))[0]
    np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=2e-5)


def test_dropout_behind_the_activation():
    """Each of three channels is doubled or dropped, and an evaluation keeps them all."""
    stage = tiny_stage("vit_cls", method="adapter", options={"kind": "adaptformer", "bottleneck": 3, "dropout": 0.5})
    port, (batch,) = stage.spec.port, batches(stage, 1)
    state = stage.enter(*backbone(stage), 0)
    plain, adapter = stage.spec.method.view(state.params, {}), jax.tree.map(jnp.zeros_like, state.params["adapter"])
    mlp = adapter["block_0"]["mlp"]
    mlp["down"]["bias"] += 1.0
    mlp["up"]["kernel"] = mlp["up"]["kernel"].at[:, 0].set([1.0, 2.0, 4.0])
    intercept = stage.spec.method.intercept({**plain, "adapter": adapter}, {})
    training = Training(key=jax.random.key(0), live=frozenset(), eval_norms=frozenset())

    def added(training):
        run = functools.partial(port.apply, plain, {}, batch, end="block_0", training=training)
        change = np.asarray(run(intercept=intercept)[0] - run()[0])
        np.testing.assert_array_equal(change[..., 1:], 0)
        return np.round(change[..., 0] / 0.1, 3)

    np.testing.assert_array_equal(added(None), 7)
    assert set(np.unique(added(training))) == set(range(0, 15, 2))
    with pytest.raises(InputError, match=r"dropout must be a drop rate in \[0, 1\), found 1.0"):
        tiny_stage("vit_cls", method="adapter", options={"kind": "adaptformer", "dropout": 1.0})


def layer_norm(x, params):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(var + 1e-12) * params["scale"] + params["bias"]


def gelu(x):
    return jax.nn.gelu(x, approximate=False)


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
        h = layer_norm(x + attention + bottleneck(attention, added["block_0"]["attn"]["out"], gelu), block["norm_1"])
        mlp = _mlp(h, block)
        wanted = layer_norm(h + mlp + bottleneck(mlp, added["block_0"]["mlp"]["fc2"], gelu), block["norm_2"])
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


@pytest.mark.parametrize("kind,std,most", [("houlsby", 0.0088, 0.02), ("pfeiffer", 0.02, 0.1)])
def test_the_kernels_at_the_start(kind, std, most):
    """N(0, 0.01) cut at two standard deviations, of which 0.88 of the deviation is left; N(0, 0.02)."""
    leaves = flatten(tiny_stage("vit_cls", method="adapter", options={"kind": kind}).enter(*drawn(), 0).params)
    of_tiny = {
        leaf.shape for path, leaf in leaves.items() if path.startswith("adapter/") and path.endswith("down/bias")
    }
    assert of_tiny == {(1,)}  # 12 // 16, one at least
    options = {"kind": kind, "bottleneck": 60}
    leaves = flatten(tiny_stage("vit_cls", method="adapter", options=options).enter(*drawn(), 0).params)
    kernels = np.concatenate([np.ravel(x) for p, x in leaves.items() if p.startswith("adapter/") and "kernel" in p])
    assert kernels.std() == pytest.approx(std, rel=0.05) and np.abs(kernels).max() <= most


def test_options_in_place_of_the_kinds_own():
    """Swish and N(0, 0.02), as the library `adapters` has them; a start at the source model behind a layer."""
    port = tiny.make("vit_cls")
    options = {"bottleneck": 3, "activation": "swish", "start": "bert"}
    method, (params, _), batch = METHODS.make("adapter", port, **options), tiny.draw(port), tiny.batch(port)
    full, _ = method.init(params, jax.random.key(0), NOTHING)
    part = full["adapter"]["block_0"]["attn"]["out"]
    assert np.abs(part["down"]["kernel"]).max() > 0.02
    h = _layer(port, params, batch, "block_0/attn/out")
    caught = {}

    def catch(next_fun, args, kwargs, context):
        outputs = method.intercept(full, {})(next_fun, args, kwargs, context)
        caught.setdefault("/".join(context.module.path), outputs)
        return outputs

    port.apply(params, {}, batch, intercept=catch, end="block_0")
    np.testing.assert_allclose(caught["block_0/attn/out"], h + bottleneck(h, part, jax.nn.swish), rtol=1e-5, atol=1e-6)
    method = METHODS.make("adapter", port, start="lora")
    full, _ = method.init(params, jax.random.key(0), NOTHING)
    adapted = port.apply(params, {}, batch, intercept=method.intercept(full, {}))[0]
    np.testing.assert_array_equal(adapted, port.apply(params, {}, batch)[0])


def drawn():
    return tiny.draw(tiny.make("vit_cls"))


@pytest.mark.parametrize(
    "options,line",
    [
        ({"activation": "geluu"}, "adapter: unknown activation 'geluu'; nearest: 'gelu'"),
        ({"start": "brt"}, "adapter: unknown start 'brt'; nearest: 'bert'"),
        ({"bottleneck": -1}, "adapter: expected bottleneck >= 0, found -1; 0 is the kind's own"),
    ],
)
def test_options_are_checked(options, line):
    with pytest.raises(InputError, match=line):
        tiny_stage("vit_cls", method="adapter", options=options)


def test_a_scale_is_of_adapters_beside_the_mlp():
    with pytest.raises(InputError, match="adapter: kind='houlsby' has no scale, found 2.0; omit it"):
        tiny_stage("vit_cls", method="adapter", options={"scale": 2.0})


@pytest.mark.parametrize(
    "case,kind,found",
    [("vit_cls", "houlsby", "kind='houlsby'"), ("bert_pooler", "adaptformer", "blocks with norms of order 'post'")],
)
def test_tokens_before_the_norm_of_an_mlp(case, kind, found):
    with pytest.raises(InputError, match=f"before_norm is of adapters beside an MLP behind its norm, found {found}"):
        tiny_stage(case, method="adapter", options={"kind": kind, "before_norm": True})


def test_a_convolutional_network_has_no_place_for_them():
    with pytest.raises(InputError, match="adapter: the model has no transformer blocks to put adapters into; use lora"):
        tiny_stage("resnet_basic", method="adapter")
