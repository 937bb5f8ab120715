from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.registry import MODELS

from . import reference
from .tiny import batch, draw


def shapes(port):
    """{path: shape} of the parameters, without computing them."""
    image = jax.ShapeDtypeStruct((1, *port.encoding.size), jnp.float32)
    params, state = jax.eval_shape(port.init, jax.random.key(0), {"image": image})
    assert state == {}
    return {path: leaf.shape for path, leaf in rules.flatten(params).items()}


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (dict(width=192, heads=3, mlp_width=768), 5_717_416),
        (dict(width=384, heads=6, mlp_width=1536), 22_050_664),
        ({}, 86_567_656),
        (dict(width=1024, layers=24, heads=16, mlp_width=4096), 304_326_632),
        # Without the class token: one token's embedding and one position less.
        (dict(pool="mean"), 86_567_656 - 2 * 768),
    ],
    ids=["Ti", "S", "B", "L", "B-mean"],
)
def test_parameter_count_is_the_published_one(options, count):
    assert sum(int(np.prod(shape)) for shape in shapes(MODELS.make("vit", outputs=1000, **options)).values()) == count


def test_paths_and_shapes():
    port = MODELS.make("vit", outputs=1000)
    leaves = shapes(port)
    assert port.units == ("stem", *(f"block_{i}" for i in range(12)), "head")
    expected = {
        "stem/patch/kernel": (16, 16, 3, 768),
        "stem/patch/bias": (768,),
        "stem/cls": (1, 1, 768),
        "stem/pos": (1, 197, 768),
        "head/norm/scale": (768,),
        "head/norm/bias": (768,),
        "head/out/kernel": (768, 1000),
        "head/out/bias": (1000,),
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
    assert leaves == expected


def forward(params, x, *, layers, patch, pool, epsilon):
    """The paper's network in numpy, from {path: array}."""

    def norm(name, x):
        return reference.layer_norm(x, params[f"{name}/scale"], params[f"{name}/bias"], epsilon)

    def dense(name, x):
        return x @ params[f"{name}/kernel"] + params[f"{name}/bias"]

    def heads(name, x):
        return np.einsum("btd,dhk->bthk", x, params[f"{name}/kernel"]) + params[f"{name}/bias"]

    x = reference.conv(x, params["stem/patch/kernel"], patch) + params["stem/patch/bias"]
    x = np.stack([x[:, i, j] for i in range(x.shape[1]) for j in range(x.shape[2])], 1)
    if pool == "cls":
        x = np.concatenate([np.repeat(params["stem/cls"], len(x), 0), x], 1)
    x = x + params["stem/pos"]
    for i in range(layers):
        name = f"block_{i}"
        y = norm(f"{name}/norm_1", x)
        y = reference.attention(*(heads(f"{name}/attn/{part}", y) for part in ("query", "key", "value")))
        x = x + np.einsum("bthk,hkd->btd", y, params[f"{name}/attn/out/kernel"]) + params[f"{name}/attn/out/bias"]
        y = norm(f"{name}/norm_2", x)
        x = x + dense(f"{name}/mlp/fc2", reference.gelu(dense(f"{name}/mlp/fc1", y)))
    x = norm("head/norm", x)
    return dense("head/out", x[:, 0] if pool == "cls" else x.mean(1))


@pytest.mark.parametrize(("pool", "epsilon", "width"), [("cls", 1e-6, 12), ("mean", 1e-2, 15)])
def test_forward_equals_numpy(pool, epsilon, width):
    port = MODELS.make(
        "vit",
        outputs=5,
        patch=3,
        width=width,
        layers=2,
        heads=3,
        mlp_width=22,
        pool=pool,
        epsilon=epsilon,
        image=(6, 12, 3),
    )
    inputs = batch(port, 2)
    params, state = draw(port)
    outputs, _ = port.apply(params, state, inputs)
    flat = {path: np.asarray(leaf, np.float64) for path, leaf in rules.flatten(params).items()}
    image = np.asarray(inputs["image"], np.float64)
    expected = forward(flat, image, layers=2, patch=3, pool=pool, epsilon=epsilon)
    assert np.abs(outputs - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize(("pool", "last"), [("cls", 3), ("cls+mean", 1), ("cls+mean", 3), ("cls+mean", 4)])
def test_features_are_class_tokens_of_the_last_blocks_and_the_mean_of_the_patches(pool, last):
    """As its units give them: the same leaves in a network that reads one class token."""
    sizes = dict(outputs=5, patch=3, width=12, layers=4, heads=3, mlp_width=22, image=(6, 9, 3))
    port, plain = MODELS.make("vit", **sizes, pool=pool, last=last), MODELS.make("vit", **sizes)
    inputs, (params, state) = batch(port, 2), draw(port)
    blocks = [f"block_{i}" for i in range(4)]
    passed = port.forward(params, state, inputs, taps=("features", *blocks))
    outputs, found = passed.outputs, passed.taps
    tokens = plain.forward(params, state, inputs, end="block_3", taps=tuple(blocks)).taps
    scale, bias = params["head"]["norm"]["scale"], params["head"]["norm"]["bias"]
    normed = [reference.layer_norm(np.asarray(tokens[name], np.float64), scale, bias, 1e-6) for name in blocks]
    parts = [x[:, 0] for x in normed[-last:]] + ([normed[-1][:, 1:].mean(1)] if pool == "cls+mean" else [])
    expected = np.concatenate(parts, -1)
    assert port.features == expected.shape[1:] == (12 * len(port.feature_parts),)
    assert port.feature_parts == (*blocks[-last:], *(["mean"] if pool == "cls+mean" else []))
    np.testing.assert_allclose(found["features"], expected, atol=1e-5)
    out = params["head"]["out"]
    np.testing.assert_allclose(outputs, expected @ np.asarray(out["kernel"]) + out["bias"], atol=1e-5)
    for name in blocks:  # behind what it carries a block gives what it gives alone
        carried = port.module.leading(name) - 1
        assert carried == max(0, blocks.index(name) - (4 - last))
        np.testing.assert_allclose(found[name][:, carried:], tokens[name], atol=1e-5)


def test_one_class_token_is_read_by_the_network_it_was():
    """No unit knows of others' tokens, and what passes between them is what it was."""
    port = MODELS.make("vit", outputs=3, patch=3, width=12, layers=2, heads=3, mlp_width=20, image=(6, 9, 3))
    assert [port.module.units()[name]().carried for name in ("block_0", "block_1")] == [None, None]
    assert port.passed("head").shape == (2, 7, 12) and port.feature_parts == ("block_1",)


def test_initial_values():
    # Most kernels flatten to the same 64 x 64, because every new shape compiles its initialiser anew.
    port = MODELS.make("vit", outputs=64, patch=8, width=64, layers=1, heads=4, mlp_width=64, image=(64, 64, 3))
    params = rules.flatten(port.init(jax.random.key(0), batch(port, 1))[0])
    for path, std in (
        ("stem/patch/kernel", (8 * 8 * 3) ** -0.5),
        ("stem/pos", 0.02),
        ("block_0/attn/query/kernel", 64**-0.5),
        ("block_0/attn/out/kernel", 64**-0.5),
        ("block_0/mlp/fc2/kernel", 64**-0.5),
    ):
        assert float(params[path].std()) == pytest.approx(std, rel=0.05), path
    for path, leaf in params.items():
        if path.endswith(("/bias", "/cls", "/scale")):
            np.testing.assert_array_equal(leaf, np.full(leaf.shape, float(path.endswith("/scale"))))


def test_trap_attention_key_bias_has_no_gradient():
    port = MODELS.make("vit", outputs=3, patch=3, width=12, layers=1, heads=3, mlp_width=8, image=(6, 6, 3))
    inputs = batch(port)
    params, state = draw(port)
    gradient = jax.jit(jax.grad(lambda params: jnp.square(port.apply(params, state, inputs)[0]).sum()))(params)
    size = {name: float(jnp.abs(gradient["block_0"]["attn"][name]["bias"]).max()) for name in ("query", "key", "value")}
    assert size["key"] < 1e-5 * size["value"]
    assert size["query"] > 1e-3 * size["value"]


def test_rates_rise_linearly():
    units = MODELS.make("vit", outputs=2, layers=4, stochastic_depth=0.4).module.units()
    assert [units[f"block_{i}"].args[0].drop_rate for i in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(pool="max"), "pool must be one of 'cls', 'mean', 'cls+mean', 'pooler', found 'max'"),
        (dict(last=0), "last must be a positive integer, found 0"),
        (dict(last=13), "last must be at most the number of layers, found last=13 and layers=12"),
        (dict(last=4, pool="mean"), "last=4 needs pool='cls' or 'cls+mean', found 'mean'"),
        (dict(last=2, pool="pooler"), "last=2 needs pool='cls' or 'cls+mean', found 'pooler'"),
        (dict(last=2, norm="post"), "last=2 needs norm='pre' and distillation='none', found norm='post'"),
        (dict(pool="cls+mean", distillation="token"), "distillation='token' needs pool='cls', found 'cls+mean'"),
        (dict(last=2, distillation="token"), "last=2 needs norm='pre' and distillation='none', found norm='pre' and"),
        (dict(pool="cls+mean", head="dense"), "pool='cls+mean' needs a head that pools, found head='dense'"),
        (dict(norm="none"), "norm must be one of 'pre', 'post', found 'none'"),
        (dict(distillation="yes"), "distillation must be one of 'none', 'token', 'head', found 'yes'"),
        (dict(distillation="token", pool="mean"), "distillation='token' needs pool='cls', found 'mean'"),
        (dict(distillation="head", pool="pooler"), "distillation='head' needs pool='cls', found 'pooler'"),
        (dict(heads=5), "heads must divide the width, found width=768 and heads=5"),
        (dict(image=(224, 230, 3)), "patch must divide the image's height and width, found patch=16"),
        (dict(patch=0), "patch must be a positive integer, found 0"),
        (dict(layers=True), "layers must be a positive integer, found True"),
        (dict(dropout=-0.1), "dropout must be a drop rate in [0, 1), found -0.1"),
        (dict(stochastic_depth="high"), "stochastic_depth must be a drop rate in [0, 1), found 'high'"),
        (dict(epsilon=0.0), "epsilon must be a positive number, found 0.0"),
        (dict(mean=(0.5, 0.5)), "mean must be a tuple of 1 or 3 value(s) for image=(224, 224, 3), found (0.5, 0.5)"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError) as error:
        MODELS.make("vit", **{"outputs": 2, **options})
    assert message in str(error.value) and "\n" not in str(error.value)
