"""SimMIM and MAE: losses by hand, what is hidden, and a step whose tokens are followed through the network."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxfer.errors import InputError
from jaxfer.methods import _decoder, _patches, mae, simmim
from jaxfer.step import make_train_step
from tests.experiments import backbone, batches, tiny_stage


def test_losses_by_hand():
    rng = np.random.default_rng(0)
    found, pixels = rng.normal(size=(2, 3, 4, 6))
    mask = np.array([[1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 0, 0]], bool)
    squares, distances = [], []
    for i, j in zip(*np.nonzero(mask), strict=True):
        distances.append(np.abs(found[i, j] - pixels[i, j]).mean())
        wanted = (pixels[i, j] - pixels[i, j].mean()) / np.sqrt(pixels[i, j].var(ddof=1) + 1e-6)
        squares.append(((found[i, j] - wanted) ** 2).mean())
    with jax.enable_x64(True):
        arrays = [jnp.asarray(x) for x in (found, pixels, mask)]
        assert float(simmim.apart(*arrays)) == pytest.approx(np.mean(distances), rel=1e-9)
        assert float(mae.apart(*arrays, True)) == pytest.approx(np.mean(squares), rel=1e-9)
        plain = ((found - pixels)[mask] ** 2).mean()
        assert float(mae.apart(*arrays, False)) == pytest.approx(plain, rel=1e-9)


def test_pixels_are_those_of_their_patch():
    images = np.random.default_rng(0).normal(size=(2, 4, 6, 3)).astype(np.float32)
    found = _patches.pixels(images, 2)
    for i in range(6):
        row, column = divmod(i, 3)
        patch = images[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        np.testing.assert_array_equal(found[:, i], patch.reshape(2, -1))


def test_as_many_patches_are_hidden_in_each_image():
    mask = np.asarray(simmim.masked(jax.random.key(0), 50, 4, 6, 0.6, 2))
    assert (mask.sum((1, 2)) == 4 * 4).all()  # 4 of 6 squares
    assert (mask == mask[:, ::2, ::2].repeat(2, 1).repeat(2, 2)).all()
    assert mask.any(0).all() and len(np.unique(mask.reshape(50, -1), axis=0)) > 8


@pytest.mark.parametrize(
    ("patches", "side", "hidden", "square"),
    [
        (14, 16, 0.6, 2),  # 224 pixels, ViT-B/16
        (48, 4, 0.6, 8),  # 192 pixels, the paper's Swin
        (7, 32, 0.6, 1),
        (16, 14, 0.6, 1),  # 32 pixels are no whole number of patches
        (21, 16, 0.6, 1),  # 336 pixels are 10.5 squares
        (8, 4, 0.6, 1),  # an image of 32 pixels would be hidden whole
        (16, 4, 0.6, 8),  # three of four squares of 64 pixels
        (16, 4, 0.8, 1),
    ],
)
def test_squares_of_32_pixels(patches, side, hidden, square):
    assert simmim.papers_square(patches, patches, side, hidden) == square


def test_fixed_positions():
    """Channels of the column, then of the row: sines of the place at 1 and 1 / 100, and cosines."""
    found = mae.sines(2, 3, 9)
    for row in range(2):
        for column in range(3):
            wanted = [f(place * rate) for place in (column, row) for f in (np.sin, np.cos) for rate in (1.0, 0.01)]
            np.testing.assert_allclose(found[3 * row + column], [*wanted, 0.0], rtol=0, atol=1e-7)


def normed(x, leaves):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * leaves["scale"] + leaves["bias"]


def stepped(method, accumulate=1, **options):
    """(a step's loss, the parameters before it, images, the key of the step, blocks as a function of tokens)."""
    stage = tiny_stage("vit_cls", method=method, options=options, accumulate=accumulate)
    (params, model_state), (batch,), port = backbone(stage), batches(stage, 1), stage.spec.port
    state = stage.enter(params, model_state, 0)
    start, key = jax.device_get(state.params), jax.random.fold_in(state.key, 0)
    after, metrics = jax.jit(make_train_step(stage.spec))(state, batch)
    assert not np.array_equal(after.params["decoder"]["head"]["token"], start["decoder"]["head"]["token"])

    def blocks(tokens):
        passed = port.apply(params, model_state, {"image": jnp.asarray(tokens)}, begin="block_0", end="block_1")
        return normed(np.asarray(passed[0]), start["head"]["norm"])

    return float(metrics["loss"]), start, np.asarray(batch["image"]), key, blocks


def embedded(start, images):
    kernel = start["stem"]["patch"]["kernel"]
    return np.asarray(_patches.pixels(images, 3)) @ kernel.reshape(-1, 12) + start["stem"]["patch"]["bias"]


def test_a_step_of_simmim_by_hand():
    value, start, images, key, blocks = stepped("simmim", accumulate=2)
    decoder, mask = start["decoder"]["head"], np.asarray(simmim.masked(key, 8, 2, 3, 0.6, 1)).reshape(8, 6)
    assert (mask.sum(1) == 4).all()
    patches = np.where(mask[:, :, None], decoder["token"], embedded(start, images))
    tokens = np.concatenate([np.repeat(start["stem"]["cls"], 8, 0), patches], 1) + start["stem"]["pos"]
    found = blocks(tokens)[:, 1:] @ decoder["layer_0"]["kernel"] + decoder["layer_0"]["bias"]
    wanted = np.abs(found - np.asarray(_patches.pixels(images, 3)))[mask].mean()
    assert value == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("positions", ["sines", "learned"])
def test_a_step_of_mae_by_hand(positions):
    """The network reads the class token and the kept patches alone."""
    value, start, images, key, blocks = stepped("mae", hidden=0.5, layers=2, positions=positions)
    decoder, order = start["decoder"]["head"], np.asarray(_patches.order(key, 8, 6))
    assert ("pos" in decoder) == (positions == "learned")
    decoder = {"pos": mae.sines(2, 3, 12), **decoder}
    pos, patches = start["stem"]["pos"], embedded(start, images) + start["stem"]["pos"][:, 1:]
    kept = np.stack([patches[i, order[i, :3]] for i in range(8)])
    features = blocks(np.concatenate([np.repeat(start["stem"]["cls"] + pos[:, :1], 8, 0), kept], 1))
    entered = features @ decoder["enter"]["kernel"] + decoder["enter"]["bias"]
    x = np.concatenate([entered[:, :1], np.broadcast_to(decoder["token"] + decoder["pos"], (8, 6, 12))], 1)
    for i in range(8):
        x[i, 1 + order[i, :3]] = entered[i, 1:] + decoder["pos"][order[i, :3]]
    block = _decoder.block(12)
    for i in range(2):
        x = block.apply({"params": jax.tree.map(lambda leaf, i=i: leaf[i], decoder["blocks"])}, x, train=False)
    found = normed(np.asarray(x)[:, 1:], decoder["norm"]) @ decoder["leave"]["kernel"] + decoder["leave"]["bias"]
    mask = np.ones((8, 6), bool)
    np.put_along_axis(mask, order[:, :3], False, 1)
    with jax.enable_x64(True):
        arrays = [jnp.asarray(np.asarray(x)) for x in (found, _patches.pixels(images, 3), mask)]
        wanted = float(mae.apart(*arrays, True))
    assert value == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(
    "method,case,options,message",
    [
        (
            "simmim",
            "resnet_basic",
            {},
            "simmim: hides patches of an image, and this model has none; use simclr or simcse",
        ),
        ("mae", "bert_pooler", {}, "mae: hides patches of an image, and this model has none; use simclr or simcse"),
        ("simmim", "swin_v1", {}, "simmim: the model's blocks pass on maps or positions and no row of tokens"),
        ("mae", "beit_layer", {}, "mae: attention of this model has a table of its own tokens' places"),
        ("simmim", "vit_cls", {"square": 2}, "options.square: expected a divisor of 2 and 3 patches, found 2"),
        ("simmim", "vit_cls", {"hidden": 1.0}, "expected hidden between 0 and 1 and square >= 1, found 1.0 and None"),
        ("simmim", "vit_cls", {"square": 0}, "expected hidden between 0 and 1 and square >= 1, found 0.6 and 0"),
        ("mae", "vit_cls", {"hidden": 0.9}, "options.hidden: 0.9 keeps none of 6 patches; lower it"),
        ("mae", "vit_cls", {"positions": "sine"}, "expected sines or learned, found 'sine'; nearest: 'sines'"),
        ("mae", "vit_cls", {"layers": 0}, "expected hidden between 0 and 1, layers >= 1 and width >= 1, found 0.75, 0"),
    ],
)
def test_what_is_refused(method, case, options, message):
    with pytest.raises(InputError, match=message):
        tiny_stage(case, method=method, options=options)
