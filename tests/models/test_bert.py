from __future__ import annotations

import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import rules
from jaxfer.data.encodings.tokens import TEXT_INPUTS
from jaxfer.errors import InputError
from jaxfer.models import text
from jaxfer.models.bert import Options
from jaxfer.models.port import Training
from jaxfer.pretrained.families import by_model_type
from jaxfer.pretrained.layout import convert
from jaxfer.registry import MODELS

from . import reference
from .tiny import batch, draw

TINY = dict(vocab=23, width=15, layers=2, heads=3, mlp_width=22, positions=9, types=2, max_length=7)


def shapes(port):
    """{path: shape} of the parameters, without computing them."""
    params, state = jax.eval_shape(port.init, jax.random.key(0), port.example(1))
    assert state == {}
    return {path: leaf.shape for path, leaf in rules.flatten(params).items()}


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 109_482_240),
        (dict(width=1024, layers=24, heads=16, mlp_width=4096), 335_141_888),
        (dict(width=384, layers=6, heads=12, mlp_width=1536), 22_713_216),
        (dict(vocab=119547), 177_853_440),
    ],
    ids=["base", "large", "MiniLM-L6", "mBERT"],
)
def test_parameter_count_is_the_published_one(options, count):
    leaves = shapes(MODELS.make("bert", outputs=2, **options))
    backbone = (shape for path, shape in leaves.items() if not path.startswith("head/out/"))
    assert sum(int(np.prod(shape)) for shape in backbone) == count


def test_paths_and_shapes():
    port = MODELS.make("bert", outputs=5)
    assert port.units == ("stem", *(f"block_{i}" for i in range(12)), "head")
    assert (port.inputs, port.outputs) == (TEXT_INPUTS, 5)
    expected = {
        "stem/word/embedding": (30522, 768),
        "stem/position/embedding": (512, 768),
        "stem/type/embedding": (2, 768),
        "stem/norm/scale": (768,),
        "stem/norm/bias": (768,),
        "head/pooler/kernel": (768, 768),
        "head/pooler/bias": (768,),
        "head/out/kernel": (768, 5),
        "head/out/bias": (5,),
    }
    block = {
        "attn/out/kernel": (12, 64, 768),
        "attn/out/bias": (768,),
        "mlp/fc1/kernel": (768, 3072),
        "mlp/fc1/bias": (3072,),
        "mlp/fc2/kernel": (3072, 768),
        "mlp/fc2/bias": (768,),
    }
    for name in ("query", "key", "value"):
        block |= {f"attn/{name}/kernel": (768, 12, 64), f"attn/{name}/bias": (12, 64)}
    for name in ("norm_1", "norm_2"):
        block |= {f"{name}/scale": (768,), f"{name}/bias": (768,)}
    expected |= {f"block_{i}/{path}": shape for i in range(12) for path, shape in block.items()}
    assert shapes(port) == expected
    mean = shapes(MODELS.make("bert", outputs=5, pool="mean"))
    assert mean == {path: shape for path, shape in expected.items() if not path.startswith("head/pooler/")}


def forward(params, inputs, *, layers, pool, epsilon, activation):
    """The paper's network in numpy, one text at a time and without its padding, from {path: array}."""

    def norm(name, x):
        return reference.layer_norm(x, params[f"{name}/scale"], params[f"{name}/bias"], epsilon)

    def dense(name, x):
        return x @ params[f"{name}/kernel"] + params[f"{name}/bias"]

    def heads(name, x):
        return np.einsum("btd,dhk->bthk", x, params[f"{name}/kernel"]) + params[f"{name}/bias"]

    outputs = []
    for ids, mask, types in zip(*(np.asarray(inputs[name]) for name in TEXT_INPUTS), strict=True):
        real = mask > 0
        x = params["stem/word/embedding"][ids[real]] + params["stem/type/embedding"][types[real]]
        x = norm("stem/norm", x + params["stem/position/embedding"][np.flatnonzero(real)])[None]
        for i in range(layers):
            name = f"block_{i}"
            y = reference.attention(*(heads(f"{name}/attn/{part}", x) for part in ("query", "key", "value")))
            y = np.einsum("bthk,hkd->btd", y, params[f"{name}/attn/out/kernel"]) + params[f"{name}/attn/out/bias"]
            x = norm(f"{name}/norm_1", x + y)
            x = norm(f"{name}/norm_2", x + dense(f"{name}/mlp/fc2", activation(dense(f"{name}/mlp/fc1", x))))
        pooled = np.tanh(dense("head/pooler", x[0, 0])) if pool == "pooler" else x[0].mean(0)
        outputs.append(dense("head/out", pooled))
    return np.stack(outputs)


@pytest.mark.parametrize(
    ("options", "activation"),
    [
        ({}, reference.gelu),
        (dict(pool="mean", epsilon=1e-2), reference.gelu),
        (dict(activation="relu"), lambda x: np.maximum(x, 0)),
        (
            dict(activation="gelu_new"),
            lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
        ),
    ],
    ids=["pooler", "mean", "relu", "gelu_new"],
)
def test_forward_equals_numpy_without_padding(options, activation):
    port = MODELS.make("bert", outputs=5, **TINY, **options)
    inputs = batch(port)
    assert 0 < int(inputs["attention_mask"].sum()) < inputs["attention_mask"].size
    params, state = draw(port)
    outputs, _ = port.apply(params, state, inputs)
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in rules.flatten(params).items()}
    options = {"pool": "pooler", "epsilon": 1e-12, **options, "activation": activation}
    expected = forward(flat, inputs, layers=2, **options)
    assert np.abs(outputs - expected).max() <= 1e-5 * np.abs(expected).max()


def unpack(flat, shapes):
    """{name: array} of arrays laid end to end."""
    ends = np.cumsum([math.prod(shape) for shape in shapes.values()])
    parts = np.split(flat.astype(np.float32), ends[:-1])
    return {name: part.reshape(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def test_every_unit_equals_pytorch():
    # Written by golden/make_bert.py from transformers' own BERT: padding, three token types, 30 labels.
    golden = np.load(Path(__file__).parent / "golden" / "bert.npz")
    index = json.loads(golden["index"].tobytes())
    theirs, expected = (unpack(golden[what], index[what]) for what in ("weights", "expected"))
    layout = by_model_type("bert")
    options = layout.options(index["config"], {}, {name: value.shape for name, value in theirs.items()})
    port = MODELS.make("bert", outputs=30, **options)
    params, state = jax.eval_shape(port.init, jax.random.key(0), port.example(1))
    params = convert(theirs, layout, port, rules.flatten({"params": params, **state})).params
    inputs = {name: golden[name].astype(np.int32) for name in TEXT_INPUTS}
    assert 0 < inputs["attention_mask"].sum() < inputs["attention_mask"].size
    assert set(inputs["token_type_ids"].ravel()) == {0, 1, 2}
    for unit in port.units:
        reference = expected["logits" if unit == "head" else unit]
        top = np.abs(reference).max()
        assert 0.1 <= top <= 10, unit
        found = port.apply(params, {}, inputs, end=unit)[0]
        np.testing.assert_allclose(found, reference, rtol=0, atol=1e-4 * max(1, top), err_msg=unit)


@pytest.mark.parametrize(
    ("pool", "expected"),
    [
        ("cls", [[1, -4], [5, 6]]),
        ("max", [[3, 8], [5, 6]]),
        ("mean", [[2, 2], [5, 6]]),
        ("mean_sqrt_len_tokens", [[6 / 3**0.5, 6 / 3**0.5], [5, 6]]),
        ("weightedmean", [[(1 + 2 * 2 + 3 * 3) / 6, (-4 + 2 * 2 + 3 * 8) / 6], [5, 6]]),
        ("lasttoken", [[3, 8], [5, 6]]),
        ("max+cls", [[3, 8, 1, -4], [5, 6, 5, 6]]),
    ],
)
def test_poolings_by_hand(pool, expected):
    """Three tokens and a padding, one token and three."""
    x = jnp.asarray([[[1, -4], [2, 2], [3, 8], [99, -99]], [[5, 6], [7, 7], [8, 8], [-9, 9]]], jnp.float32)
    mask = jnp.asarray([[1, 1, 1, 0], [1, 0, 0, 0]])
    np.testing.assert_allclose(text.pooled_tokens(x, mask, pool), expected, rtol=1e-6)
    assert text.pooled_tokens(x.astype(jnp.bfloat16), mask, pool).shape == (2, len(expected[0]))
    assert np.isfinite(text.pooled_tokens(x, 0 * mask, pool)).all()


def test_normalized_pooling_has_length_one():
    head = text.Head(outputs=2, options=Options(pool="cls", normalize=True))
    x, mask = jnp.asarray([[[3.0, -4.0]], [[0.0, 0.0]]]), jnp.ones((2, 1), jnp.int32)
    params = {"out": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)}}
    found = head.apply({"params": params}, x, attention_mask=mask, train=False)
    np.testing.assert_allclose(found, [[0.6, -0.8], [0, 0]], rtol=1e-6)
    gradient = jax.grad(lambda x: head.apply({"params": params}, x, attention_mask=mask, train=False).sum())(x)
    assert np.isfinite(gradient).all()


def test_a_text_of_padding_alone_stays_finite():
    port = MODELS.make("bert", outputs=2, **TINY, pool="mean")
    params, _ = draw(port)
    inputs = {**batch(port), "attention_mask": jnp.zeros((4, 7), jnp.int32)}
    assert bool(jnp.isfinite(port.apply(params, {}, inputs)[0]).all())


def test_dropout_acts_on_embeddings_attention_branches_and_pooling():
    port = MODELS.make("bert", outputs=2, **TINY)
    (params, _), inputs, everything = draw(port), batch(port), {}
    still = port.apply(params, {}, inputs)[0]  # rates are of training alone
    for options in (
        dict(dropout=0.5, attention_dropout=0.0),
        dict(attention_dropout=0.5),
        dict(dropout=0.5),
        dict(classifier_dropout=0.5),
    ):
        port = MODELS.make("bert", outputs=2, **TINY, **options)
        for unit in ("stem", "block_0", "head"):
            training = Training(key=jax.random.key(0), live=frozenset({unit}), eval_norms=frozenset())
            everything[tuple(options), unit] = bool(
                (port.apply(params, {}, inputs, training=training)[0] != still).any()
            )
    assert everything == {
        (("dropout", "attention_dropout"), "stem"): True,
        (("dropout", "attention_dropout"), "block_0"): True,
        (("dropout", "attention_dropout"), "head"): True,
        (("attention_dropout",), "stem"): False,
        (("attention_dropout",), "block_0"): True,
        (("attention_dropout",), "head"): False,
        (("dropout",), "stem"): True,
        (("dropout",), "block_0"): True,
        (("dropout",), "head"): True,
        (("classifier_dropout",), "stem"): False,
        (("classifier_dropout",), "block_0"): False,
        (("classifier_dropout",), "head"): True,
    }
    options = Options(dropout=0.3)
    assert (options.spec.attention_dropout, options.drop_classifier) == (0.3, 0.3)


def test_initial_values():
    port = MODELS.make(
        "bert", outputs=64, vocab=64, width=64, layers=1, heads=4, mlp_width=64, positions=64, max_length=8
    )
    params = rules.flatten(port.init(jax.random.key(0), batch(port, 1))[0])
    for path, std in (("stem/word/embedding", 0.02), ("block_0/attn/query/kernel", 64**-0.5)):
        assert float(params[path].std()) == pytest.approx(std, rel=0.05), path
    for path, leaf in params.items():
        if path.endswith(("/bias", "/scale")):
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, float(path.endswith("/scale"))))


@pytest.mark.parametrize(
    ("options", "buckets"),
    [
        ({}, (32, 64, 128)),
        (dict(max_length=512), (32, 64, 128, 256, 512)),
        (dict(max_length=100), (32, 64, 100)),
        (dict(max_length=32), (32,)),
        (dict(max_length=7), (7,)),
        (dict(max_length=60, buckets=(20, 60)), (20, 60)),
    ],
)
def test_buckets(options, buckets):
    encoding = MODELS.make("bert", outputs=2, **options).encoding
    assert encoding.buckets == buckets
    longest = jax.ShapeDtypeStruct((3, buckets[-1]), "int32")
    assert encoding.example(3) == dict.fromkeys(TEXT_INPUTS, longest)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(pool="min"), "pool must be one of 'pooler', 'mean', 'cls', 'max', "),
        (dict(pool="cls+pooler"), "each part of pool must be one of 'mean', 'cls', "),
        (dict(activation="glue"), "activation must be one of 'gelu', "),
        (dict(heads=5), "heads must divide the width, found width=768 and heads=5"),
        (dict(vocab=0), "vocab must be a positive integer, found 0"),
        (dict(attention_dropout=1.0), "attention_dropout must be a drop rate in [0, 1), found 1.0"),
        (dict(epsilon=0.0), "epsilon must be a positive number, found 0.0"),
        (dict(max_length=513), "max_length must be at most the 512 positions of the model, found 513"),
        (dict(buckets=(64, 32, 128)), "buckets must be rising lengths that end with max_length=128, found (64, 32,"),
        (dict(buckets=(64,)), "buckets must be rising lengths that end with max_length=128, found (64,)"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError) as error:
        MODELS.make("bert", **{"outputs": 2, **options})
    assert message in str(error.value) and "\n" not in str(error.value)
