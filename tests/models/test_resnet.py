from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.models import resnet
from jaxfer.registry import MODELS

from . import reference
from .tiny import batch, draw

BASIC = dict(outputs=1000)
BOTTLENECK = dict(outputs=1000, block="bottleneck")
CIFAR = dict(outputs=10, width=16, stem="cifar", shortcut="padding", image=(32, 32, 3))


def shapes(port):
    """{path: shape} of the parameters, and of the model state, without computing them."""
    image = jax.ShapeDtypeStruct((1, *port.encoding.size), jnp.float32)
    params, state = jax.eval_shape(port.init, jax.random.key(0), {"image": image})
    return {path: leaf.shape for path, leaf in rules.flatten(params).items()}, state


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (dict(BASIC, stage_sizes=(2, 2, 2, 2)), 11_689_512),
        (dict(BASIC, stage_sizes=(3, 4, 6, 3)), 21_797_672),
        (dict(BOTTLENECK, stage_sizes=(3, 4, 6, 3)), 25_557_032),
        (dict(BOTTLENECK, stage_sizes=(3, 4, 23, 3)), 44_549_160),
        (dict(BOTTLENECK, stage_sizes=(3, 8, 36, 3)), 60_192_808),
        (dict(BOTTLENECK, stage_sizes=(3, 4, 6, 3), base_width=128), 68_883_240),
        (dict(BOTTLENECK, stage_sizes=(3, 4, 6, 3), groups=32, base_width=4), 25_028_904),
        (dict(BOTTLENECK, stage_sizes=(3, 4, 6, 3), squeeze=True), 28_088_024),
        (dict(CIFAR, stage_sizes=(3, 3, 3)), 269_722),
        (dict(CIFAR, stage_sizes=(18, 18, 18)), 1_727_962),
    ],
    ids=["18", "34", "50", "101", "152", "wide50", "resnext50", "se50", "cifar20", "cifar110"],
)
def test_parameter_count_is_the_published_one(options, count):
    leaves, _ = shapes(MODELS.make("resnet", **options))
    assert sum(int(np.prod(shape)) for shape in leaves.values()) == count


def test_cifar_resnet20_count_by_hand():
    def stage(before, width):
        """Six 3x3 convolutions, each with the scale and bias of its norm."""
        return 9 * width * (before + 5 * width) + 6 * 2 * width

    by_hand = (9 * 3 * 16 + 2 * 16) + stage(16, 16) + stage(16, 32) + stage(32, 64) + (64 * 10 + 10)
    assert by_hand == 269_722


def test_paths_and_shapes():
    port = MODELS.make("resnet", **BOTTLENECK, stage_sizes=(3, 4, 6, 3))
    leaves, state = shapes(port)
    assert port.units == ("stem", *(f"block_{i}" for i in range(16)), "head")
    assert leaves["stem/conv/kernel"] == (7, 7, 3, 64)
    assert leaves["stem/norm/scale"] == (64,)
    assert leaves["block_0/conv_1/kernel"] == (1, 1, 64, 64)
    assert leaves["block_0/shortcut/conv/kernel"] == (1, 1, 64, 256)
    assert leaves["block_3/conv_2/kernel"] == (3, 3, 128, 128)
    assert leaves["block_3/shortcut/norm/bias"] == (512,)
    assert leaves["block_15/conv_3/kernel"] == (1, 1, 512, 2048)
    assert leaves["block_15/norm_3/bias"] == (2048,)
    assert leaves["head/out/kernel"] == (2048, 1000)
    assert {path for path in leaves if "shortcut/conv" in path} == {
        f"block_{i}/shortcut/conv/kernel" for i in (0, 3, 7, 13)
    }
    assert not any(path.endswith("bias") and "conv" in path for path in leaves)
    assert len(port.norms(state)) == 53


def forward(params, state, x, *, stage_sizes, block, stem, shortcut, stride_in_1x1):
    """The paper's network in numpy, from {path: array}."""

    def conv(name, x, stride=1):
        kernel = params[f"{name}/kernel"]
        return reference.conv(x, kernel, stride, kernel.shape[0] // 2)

    def norm(name, x):
        stats = (state[f"batch_stats/{name}/{part}"] for part in ("mean", "var"))
        return reference.batch_norm(x, params[f"{name}/scale"], params[f"{name}/bias"], *stats)

    def relu(x):
        return np.maximum(x, 0)

    x = relu(norm("stem/norm", conv("stem/conv", x, 2 if stem == "imagenet" else 1)))
    if stem == "imagenet":
        x = reference.max_pool(x, 3, 2, 1)
    index = 0
    for stage, blocks in enumerate(stage_sizes):
        for i in range(blocks):
            name, stride = f"block_{index}", 2 if stage and not i else 1
            index += 1
            if block == "basic":
                y = relu(norm(f"{name}/norm_1", conv(f"{name}/conv_1", x, stride)))
                y = norm(f"{name}/norm_2", conv(f"{name}/conv_2", y))
            else:
                y = relu(norm(f"{name}/norm_1", conv(f"{name}/conv_1", x, stride if stride_in_1x1 else 1)))
                y = relu(norm(f"{name}/norm_2", conv(f"{name}/conv_2", y, 1 if stride_in_1x1 else stride)))
                y = norm(f"{name}/norm_3", conv(f"{name}/conv_3", y))
            if x.shape == y.shape:
                skip = x
            elif shortcut == "projection":
                skip = norm(f"{name}/shortcut/norm", conv(f"{name}/shortcut/conv", x, stride))
            else:
                skip = np.zeros_like(y)
                first = (y.shape[-1] - x.shape[-1]) // 2
                skip[..., first : first + x.shape[-1]] = x[:, ::stride, ::stride]
            x = relu(skip + y)
    return x.mean((1, 2)) @ params["head/out/kernel"] + params["head/out/bias"]


@pytest.mark.parametrize(
    ("block", "stem", "shortcut", "stride_in_1x1", "image"),
    [
        ("basic", "cifar", "padding", False, (9, 7)),
        ("basic", "imagenet", "projection", False, (21, 13)),
        ("bottleneck", "cifar", "projection", False, (9, 7)),
        ("bottleneck", "cifar", "padding", True, (7, 10)),
        ("bottleneck", "imagenet", "projection", True, (22, 17)),
    ],
)
def test_forward_equals_numpy(block, stem, shortcut, stride_in_1x1, image):
    options = dict(stage_sizes=(2, 1), block=block, stem=stem, shortcut=shortcut, stride_in_1x1=stride_in_1x1)
    port = MODELS.make("resnet", outputs=5, width=6, image=(*image, 3), **options)
    inputs = batch(port, 2)
    params, state = draw(port)
    outputs, _ = port.apply(params, state, inputs)
    exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), (params, state))
    expected = forward(*map(rules.flatten, exact), np.asarray(inputs["image"], np.float64), **options)
    assert np.abs(outputs - expected).max() <= 1e-5 * np.abs(expected).max()


def test_stochastic_depth_drops_whole_samples_and_scales_the_rest():
    port = MODELS.make(
        "resnet", outputs=2, stage_sizes=(1,), width=4, stem="cifar", stochastic_depth=0.5, image=(5, 5, 3)
    )
    inputs = {"image": jnp.broadcast_to(batch(port, 1)["image"], (64, 5, 5, 3))}
    params, state = draw(port)
    unit = port.module.units()["block_0"]
    hidden, _ = port.apply(params, state, inputs, end="stem")
    block = {"params": params["block_0"], "batch_stats": state["batch_stats"]["block_0"]}
    outputs, _ = unit().apply(block, hidden, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"])
    kept, _ = resnet.Block(unit.args[0], "projection", 0.0, None).apply(
        block, hidden, train=True, mutable=["batch_stats"]
    )
    skipped = np.asarray((outputs == hidden).all((1, 2, 3)))
    assert 16 < skipped.sum() < 48
    # A kept branch counts 1 / (1 - 0.5) times; it can be read off wherever the last relu let it through.
    doubled = jnp.where(kept > 0, nn.relu(hidden + 2 * (kept - hidden)), outputs)
    np.testing.assert_allclose(outputs[~skipped], doubled[~skipped], rtol=1e-4, atol=1e-5)


def test_rates_rise_linearly_over_all_stages():
    port = MODELS.make("resnet", outputs=2, stage_sizes=(1, 3), stochastic_depth=0.4)
    units = port.module.units()
    assert [units[f"block_{i}"].args[2] for i in range(4)] == pytest.approx([0.1, 0.2, 0.3, 0.4])


def test_default_statistics_follow_the_channels():
    colour, grey = (MODELS.make("resnet", outputs=2, image=(8, 8, channels)).encoding for channels in (3, 1))
    assert (colour.mean, colour.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (grey.mean, grey.std) == ((0.5,), (0.5,))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(block="wide"), "block must be one of 'basic', 'bottleneck', found 'wide'"),
        (dict(stem="mnist"), "stem must be one of 'imagenet', 'cifar', 'deep', 'tiered', found 'mnist'"),
        (dict(shortcut="none"), "shortcut must be one of 'projection', 'average', 'padding', found 'none'"),
        (dict(stage_sizes=()), "stage_sizes must be a tuple of at least one stage, found ()"),
        (dict(stage_sizes=(2, 0)), "stage_sizes[1] must be a positive integer, found 0"),
        (dict(stage_sizes=(2, -1)), "stage_sizes[1] must be a positive integer, found -1"),
        (dict(width=0), "width must be a positive integer, found 0"),
        (dict(width=1.5), "width must be a positive integer, found 1.5"),
        (dict(stochastic_depth=1.0), "stochastic_depth must be a drop rate in [0, 1), found 1.0"),
        (dict(stride_in_1x1=True), "stride_in_1x1=True needs block='bottleneck'"),
        (dict(image=(32, 32)), "image must be a tuple (height, width, channels), found (32, 32)"),
        (dict(image=(32, 0, 3)), "image width must be a positive integer, found 0"),
        (dict(image=(28, 28, 1), mean=(0.4, 0.5, 0.6)), "mean must be a tuple of 1 value(s) for image=(28, 28, 1)"),
        (dict(image=(28, 28, 4), std=(0.4, 0.5, 0.6)), "std must be a tuple of 1 or 4 value(s)"),
        (dict(std=(0.0,)), "std must be positive, found (0.0,)"),
        (
            dict(interpolation="lanczos3"),
            "interpolation must be one of 'nearest', 'bilinear', 'bicubic', 'lanczos', 'box', 'hamming'",
        ),
        (dict(groups=2), "groups=2 and base_width=64 need block='bottleneck', found 'basic'"),
        (dict(base_width=128), "groups=1 and base_width=128 need block='bottleneck', found 'basic'"),
        (dict(block="bottleneck", width=8, base_width=4), "base_width=4 leaves no channel of widths (8, 16, 32, 64)"),
        (dict(stem="tiered", width=6), "stem='tiered' needs a width of at least 8, found 6"),
        (dict(widths=(8, 16)), "widths must be () or a width for each of the 4 stages, found (8, 16)"),
        (dict(widths=(8, 16, 0, 8)), "widths[2] must be a positive integer, found 0"),
        (
            dict(shortcut="padding", widths=(64, 96, 80, 80)),
            "'padding' adds channels, found stages of (64, 64, 96, 80, 80)",
        ),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError) as error:
        MODELS.make("resnet", **{"outputs": 2, **options})
    assert message in str(error.value) and "\n" not in str(error.value)
