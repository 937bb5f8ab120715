from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer import rules
from jaxfer.errors import InputError
from jaxfer.method import NOTHING
from jaxfer.methods import lora
from jaxfer.models.mobilenet_v1 import STRIDES, relu6
from jaxfer.registry import MODELS

from . import reference
from .tiny import batch, draw


def shapes(port):
    """({path: shape} of the parameters, model state), without computing them."""
    params, state = jax.eval_shape(port.init, jax.random.key(0), port.example(1))
    return {path: leaf.shape for path, leaf in rules.flatten(params).items()}, state


@pytest.mark.parametrize(
    ("multiplier", "count"), [(1.0, 4_231_976), (0.75, 2_585_560), (0.5, 1_331_592), (0.25, 470_072)]
)
def test_parameter_count_is_the_published_one(multiplier, count):
    leaves, _ = shapes(MODELS.make("mobilenet_v1", outputs=1000, depth_multiplier=multiplier))
    assert sum(int(np.prod(shape)) for shape in leaves.values()) == count


def test_paths_and_shapes():
    port = MODELS.make("mobilenet_v1", outputs=1000, depth_multiplier=0.75)
    leaves, state = shapes(port)
    assert port.units == ("stem", *(f"block_{i}" for i in range(13)), "head")
    assert leaves["stem/conv/kernel"] == (3, 3, 3, 24)
    assert leaves["block_0/depthwise/window"] == (3, 3, 1, 24)
    assert leaves["block_0/norm_1/scale"] == (24,)
    assert leaves["block_0/pointwise/kernel"] == (1, 1, 24, 48)
    assert leaves["block_12/pointwise/kernel"] == (1, 1, 768, 768)
    assert leaves["block_12/norm_2/bias"] == (768,)
    assert leaves["head/out/kernel"] == (768, 1000)
    assert len(port.norms(state)) == 27


def test_widths_are_cut_off_not_rounded_and_have_a_floor():
    options = MODELS.make("mobilenet_v1", outputs=2, depth_multiplier=0.3, min_depth=11).options
    assert options.widths == (11, 19, *[38] * 2, *[76] * 2, *[153] * 6, *[307] * 2)


def test_sizes_are_halved_upwards():
    port = MODELS.make("mobilenet_v1", outputs=2, depth_multiplier=0.01, image=(33, 70, 3))
    params, state = draw(port)
    x = batch(port, 1)["image"]
    found = {}
    for unit in port.units[:-1]:
        x, _ = port.apply(params, state, {"image": x}, begin=unit, end=unit)
        found[unit] = x.shape[1:3]
    # 33 -> 17 -> 9 -> 5 -> 3 -> 2; 70 -> 35 -> 18 -> 9 -> 5 -> 3
    assert found["stem"] == found["block_0"] == (17, 35)
    assert found["block_1"] == (9, 18) and found["block_3"] == (5, 9)
    assert found["block_5"] == found["block_10"] == (3, 5) and found["block_12"] == (2, 3)


def same(x, stride):
    """TensorFlow's zeros for a 3x3 window: ceil(side / stride) outputs, the odd zero at the end."""
    pads = [(max((-(-side // stride) - 1) * stride + 3 - side, 0)) for side in x.shape[1:3]]
    return np.pad(x, ((0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)))


def forward(params, state, x, *, strides, tf_padding, epsilon):
    """The paper's network in numpy, from {path: array}."""

    def normed(name, x):
        stats = (state[f"batch_stats/{name}/{part}"] for part in ("mean", "var"))
        y = reference.batch_norm(x, params[f"{name}/scale"], params[f"{name}/bias"], *stats, epsilon=epsilon)
        return np.minimum(np.maximum(y, 0), 6)

    def padded(x, stride):
        return same(x, stride) if tf_padding else np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))

    x = normed("stem/norm", reference.conv(padded(x, 2), params["stem/conv/kernel"], 2))
    for i, stride in enumerate(strides):
        window, x = params[f"block_{i}/depthwise/window"], padded(x, stride)
        planes = [reference.conv(x[..., c : c + 1], window[..., c : c + 1], stride) for c in range(x.shape[-1])]
        x = normed(f"block_{i}/norm_1", np.concatenate(planes, -1))
        x = normed(f"block_{i}/norm_2", x @ params[f"block_{i}/pointwise/kernel"][0, 0])
    return x.mean((1, 2)) @ params["head/out/kernel"] + params["head/out/bias"]


@pytest.mark.parametrize(
    ("image", "tf_padding", "epsilon"),
    [((11, 14, 3), True, 1e-3), ((16, 12, 1), True, 0.1), ((13, 16, 3), False, 1e-3), ((1, 1, 3), True, 1e-3)],
)
def test_forward_equals_numpy(image, tf_padding, epsilon):
    strides = (1, 2, 1, 2)
    port = MODELS.make(
        "mobilenet_v1",
        outputs=3,
        depth_multiplier=0.2,
        strides=strides,
        tf_padding=tf_padding,
        epsilon=epsilon,
        image=image,
    )
    params, state = draw(port)
    inputs = batch(port, 2)
    found, _ = port.apply(params, state, inputs)
    flat, stats = (
        {path: np.asarray(leaf, np.float64) for path, leaf in rules.flatten(tree).items()} for tree in (params, state)
    )
    x = np.asarray(inputs["image"], np.float64)
    expected = forward(flat, stats, x, strides=strides, tf_padding=tf_padding, epsilon=epsilon)
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_relu6_and_its_gradient_at_the_kinks():
    x = jnp.array([-1.0, 0.0, 3.0, 6.0, 7.0])
    np.testing.assert_array_equal(relu6(x), [0, 0, 3, 6, 6])
    np.testing.assert_array_equal(jax.vmap(jax.grad(relu6))(x), [0, 0, 1, 0, 0])


def test_lora_adapts_the_pointwise_kernels_and_passes_the_windows_by():
    port = MODELS.make("mobilenet_v1", outputs=3, depth_multiplier=0.1, image=(9, 9, 3))
    params, _ = jax.eval_shape(port.init, jax.random.key(0), port.example(1))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params)
    adapted, _ = lora.method(port, rank=2).init(zeros, jax.random.key(0), NOTHING)
    sites = {path.rsplit("/", 1)[0] for path in rules.flatten(adapted["lora"])}
    assert sites == {f"block_{i}/pointwise" for i in range(13)}
    with pytest.raises(InputError, match="lora target '.*/depthwise/window' matches no parameter"):
        lora.method(port, targets=(".*/depthwise/window",)).init(zeros, jax.random.key(0), NOTHING)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(depth_multiplier=0.0), "depth_multiplier must be a positive number, found 0.0"),
        (dict(min_depth=0), "min_depth must be a positive integer, found 0"),
        (dict(strides=()), "strides must be a tuple of at least one stride, found ()"),
        (dict(strides=(1, 0)), "strides[1] must be a positive integer, found 0"),
        (dict(dropout=1.0), "dropout must be a drop rate in [0, 1), found 1.0"),
        (dict(epsilon=-1e-3), "epsilon must be a positive number, found -0.001"),
        (dict(norm_momentum=1.5), "norm_momentum must be at most 1, found 1.5"),
        (dict(image=(32, 32)), "image must be a tuple (height, width, channels), found (32, 32)"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError) as error:
        MODELS.make("mobilenet_v1", **{"outputs": 2, **options})
    assert message in str(error.value) and "\n" not in str(error.value)


def test_the_published_network_has_13_blocks_and_halves_five_times():
    assert len(STRIDES) == 13 and sum(stride == 2 for stride in STRIDES) == 4


@pytest.mark.parametrize(
    ("limit", "steps"), [(0, [(1, 1), (2, 1), (2, 1), (1, 1), (2, 1)]), (4, [(1, 1), (2, 1), (1, 1), (1, 2), (1, 2)])]
)
def test_beyond_the_output_stride_windows_dilate(limit, steps):
    options = MODELS.make("mobilenet_v1", outputs=2, strides=(1, 2, 2, 1, 2), output_stride=limit).options
    assert options.steps == steps


def test_dilated_features_hold_the_strided_ones():
    """At the places where the strided network has features, the dilated one has the same: zeros of PyTorch's kind."""
    tiny = dict(outputs=2, depth_multiplier=0.1, strides=(1, 2, 1, 2, 1), tf_padding=False, image=(22, 31, 3))
    whole, dilated = MODELS.make("mobilenet_v1", **tiny), MODELS.make("mobilenet_v1", **tiny, output_stride=2)
    params, state = draw(whole)
    inputs = batch(whole)
    strided, fine = (
        jax.jit(functools.partial(port.apply, end="block_4"))(params, state, inputs)[0] for port in (whole, dilated)
    )
    assert fine.shape[1:3] == (11, 16) and strided.shape[1:3] == (3, 4)
    np.testing.assert_allclose(fine[:, ::4, ::4], strided, rtol=1e-5, atol=1e-5)
